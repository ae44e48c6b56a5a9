//! Takes back what was changed on the box.

use crate::{Change, Changes, Error, Link, Netlink, Sysctl};

/// A change that could not be taken back, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unrestored {
    /// The change. It stays in the journal.
    pub change: Change,
    /// The reason.
    pub reason: String,
}

impl std::fmt::Display for Unrestored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not restored: {}: {}", self.change, self.reason)
    }
}

impl Changes {
    /// Takes back all changes, the latest first, and strikes out what is done or gone. XDP and tc
    /// programs are the caller's: `detach` is called for each of them whose interface still is
    /// the one that it was. May be called again; what is in the returned list is tried again then.
    pub async fn restore(
        &mut self,
        netlink: &Netlink,
        mut detach: impl FnMut(&Change) -> Result<(), String>,
    ) -> Result<Vec<Unrestored>, Error> {
        let mut left = Vec::new();
        for change in self.list().to_vec().into_iter().rev() {
            let done = match &change {
                Change::Link { interface, alias } => delete(netlink, interface, alias).await,
                Change::Offload { .. } => switch_back(netlink, &change).await,
                Change::Sysctl { name, old, new } => write_back(name, old, new),
                Change::Xdp {
                    interface, ifindex, ..
                }
                | Change::Clsact { interface, ifindex }
                | Change::TcFilter {
                    interface, ifindex, ..
                } => match same(netlink, interface, *ifindex).await {
                    Ok(Some(_)) => detach(&change),
                    Ok(None) => Ok(()),
                    Err(error) => Err(error.to_string()),
                },
            };
            match done {
                Ok(()) => self.forget(&change)?,
                Err(reason) => left.push(Unrestored { change, reason }),
            }
        }
        Ok(left)
    }
}

/// The interface, if it is still there and still the same.
async fn same(netlink: &Netlink, interface: &str, ifindex: u32) -> Result<Option<Link>, Error> {
    match netlink.link(interface).await {
        Ok(link) => Ok((link.ifindex == ifindex).then_some(link)),
        Err(error) if error.is_gone() => Ok(None),
        Err(error) => Err(error),
    }
}

async fn delete(netlink: &Netlink, interface: &str, alias: &str) -> Result<(), String> {
    let link = match netlink.link(interface).await {
        Ok(link) => link,
        Err(error) if error.is_gone() => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    match &link.alias {
        // Without an alias it is ours too: the daemon died between creating and naming it.
        Some(other) if other != alias => Err(format!("its alias is now {other:?}, not {alias:?}")),
        _ => match netlink.delete_link(&link).await {
            Err(error) if !error.is_gone() => Err(error.to_string()),
            _ => Ok(()),
        },
    }
}

async fn switch_back(netlink: &Netlink, change: &Change) -> Result<(), String> {
    let Change::Offload {
        interface,
        ifindex,
        feature,
        old,
        ..
    } = change
    else {
        return Ok(());
    };
    let restored = match same(netlink, interface, *ifindex).await {
        Ok(Some(link)) => netlink.set_offloads(&link, &[(feature, *old)]).await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    match restored {
        Err(error) if !error.is_gone() => Err(error.to_string()),
        _ => Ok(()),
    }
}

fn write_back(name: &Sysctl, old: &str, new: &str) -> Result<(), String> {
    match name.read() {
        Ok(now) if now == old => Ok(()),
        Ok(now) if now != new => Err(format!("somebody else has set it to {now} since")),
        Ok(_) => name.write(old).map_err(|error| error.to_string()),
        Err(error) if error.is_gone() => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
