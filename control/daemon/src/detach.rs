//! Giving the box back as it was.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use host::{Change, Changes, Netlink, RuntimeDir};

use crate::config::RUNTIME_DIR;

/// The runtime folder of a configuration that may otherwise be broken: who wants the box back
/// shall not have to mend it first.
fn runtime_dir(path: &Path) -> Result<PathBuf> {
    let name = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("{name}: cannot be read"))?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| anyhow::anyhow!("{name}: {}", error.message()))?;
    match table.get("runtime_dir") {
        None => Ok(RUNTIME_DIR.into()),
        Some(toml::Value::String(dir)) => Ok(dir.into()),
        Some(other) => bail!("{name}: runtime_dir = {other} is no path"),
    }
}

/// `xtproxyd --detach`.
pub fn detach(path: &Path) -> Result<()> {
    let dir = runtime_dir(path)?;
    host::require_privileges()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async {
        let dir = RuntimeDir::claim(&dir)?;
        let netlink = Netlink::open()?;
        refuse_if_in_use(&netlink, dir.path()).await?;
        let mut left = 0;
        match Changes::open(dir.path()) {
            Ok(mut changes) => {
                find_host_port(&netlink, &mut changes).await?;
                left += undo(&netlink, &mut changes, &[]).await;
            }
            Err(error) => {
                left += 1;
                tracing::error!("{error}");
            }
        }
        left += sweep(&netlink).await?;
        if left > 0 {
            bail!("{left} changes could not be taken back; see above, then try again");
        }
        forget_registrations(dir.path())?;
        println!("detached: programs, host port and settings are as they were");
        dir.remove()?;
        Ok(())
    })
}

/// Programs are known by their names alone, so those of a daemon that runs with another
/// folder would be taken for left over. Its host port names the folder.
async fn refuse_if_in_use(netlink: &Netlink, own: &Path) -> Result<()> {
    for link in netlink.links().await? {
        let alias = link.alias.as_deref().unwrap_or_default();
        let dir = alias.strip_prefix("xtproxy ").map(Path::new);
        if let Some(dir) = dir.filter(|dir| *dir != own && dir.is_dir())
            && let Err(error @ host::Error::Owned { .. }) = RuntimeDir::claim(dir)
        {
            return Err(error.into());
        }
    }
    Ok(())
}

/// Without programs nobody translates what registered sockets send.
fn forget_registrations(dir: &Path) -> Result<()> {
    let file = dir.join(registry::FILE);
    match std::fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("{}: cannot be removed", file.display()))
        }
        _ => Ok(()),
    }
}

fn remove(ifindex: u32) -> Result<(), String> {
    xdp_prog::detach_stale(ifindex)
        .map(drop)
        .map_err(|e| e.to_string())
}

/// Takes back what the journal lists, but for programs on the interfaces in `kept`. Returns how
/// much is left; each has been logged.
pub async fn undo(netlink: &Netlink, changes: &mut Changes, kept: &[u32]) -> usize {
    let mut left = 0;
    let restored = changes.restore(netlink, |change| match change {
        Change::Xdp { ifindex, .. }
        | Change::Clsact { ifindex, .. }
        | Change::TcFilter { ifindex, .. }
            if !kept.contains(ifindex) =>
        {
            remove(*ifindex)
        }
        Change::Xdp { .. } | Change::Clsact { .. } | Change::TcFilter { .. } => Ok(()),
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
    left
}

/// Removes programs of ours that no journal knows. Not for a start that failed: what it finds
/// may be another daemon's, or keep transit closed. Returns how much is left.
async fn sweep(netlink: &Netlink) -> Result<usize> {
    let mut left = 0;
    for link in netlink.links().await? {
        if let Err(error) = remove(link.ifindex) {
            left += 1;
            tracing::error!(interface = link.name, error, "cannot detach");
        }
    }
    Ok(left)
}

/// A host port that bears our folder's name but stands in no journal: the journal was lost.
async fn find_host_port(netlink: &Netlink, changes: &mut Changes) -> Result<(), host::Error> {
    let alias = changes.alias();
    let links = netlink.links().await?;
    let is_ours = |link: &&host::Link| link.alias.as_deref() == Some(&alias);
    for link in links.iter().filter(is_ours) {
        changes.record(Change::Link {
            interface: link.name.clone(),
            alias: alias.clone(),
        })?;
    }
    Ok(())
}
