//! Giving the box back as it was.

use std::path::Path;

use anyhow::{Context, Result, bail};
use host::{Change, Changes, Netlink, RuntimeDir};

use crate::config::Config;

/// `xtproxyd --detach`.
pub fn detach(path: &Path) -> Result<()> {
    let config = Config::load(path)?;
    host::require_privileges()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let dir = RuntimeDir::claim(&config.runtime_dir)?;
        let netlink = Netlink::open()?;
        let mut changes = Changes::open(dir.path())?;
        let left = undo(&config, &netlink, &mut changes).await;
        if left > 0 {
            bail!("{left} changes could not be taken back; see above, then try again");
        }
        println!("detached: programs, host port and settings are as they were");
        dir.remove()?;
        Ok(())
    })
}

/// Takes back what the journal lists, and programs of ours that no journal knows. Returns how
/// much is left; each has been logged.
pub async fn undo(config: &Config, netlink: &Netlink, changes: &mut Changes) -> usize {
    let mut left = 0;
    let remove = |ifindex| {
        xdp_prog::detach_stale(ifindex)
            .map(drop)
            .map_err(|e| e.to_string())
    };
    let restored = changes.restore(netlink, |change| match change {
        Change::Xdp { ifindex, .. }
        | Change::Clsact { ifindex, .. }
        | Change::TcFilter { ifindex, .. } => remove(*ifindex),
        Change::Link { .. } | Change::Offload { .. } | Change::Sysctl { .. } => Ok(()),
    });
    match restored.await {
        Ok(unrestored) => {
            left += unrestored.len();
            for entry in unrestored {
                tracing::error!("{entry}");
            }
        }
        Err(error) => {
            left += 1;
            tracing::error!(%error, "cannot restore");
        }
    }
    for port in &config.ports {
        let Ok(link) = netlink.link(&port.interface).await else {
            continue;
        };
        if let Err(error) = remove(link.ifindex) {
            left += 1;
            tracing::error!(interface = port.interface, error, "cannot detach");
        }
    }
    left
}
