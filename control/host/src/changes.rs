//! What was changed on the box, written down before it is changed.
//!
//! Invariant: an entry keeps the oldest value it was told, over every restart of the daemon, until
//! that value is back.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use crate::{Error, Link, Netlink, Sysctl};

/// Which way a tc program looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// At what comes in.
    Ingress,
    /// At what goes out.
    Egress,
}

/// One change of the box. An interface is known by name and index, so that nothing is done to
/// another one that has taken over the name.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Change {
    /// An interface was created.
    Link {
        /// Its name.
        interface: String,
        /// The alias that says whose it is.
        alias: String,
    },
    /// An offload was switched.
    Offload {
        /// The interface.
        interface: String,
        /// Its index.
        ifindex: u32,
        /// The offload, by the kernel's name.
        feature: String,
        /// How it was.
        old: bool,
        /// How it was made.
        new: bool,
    },
    /// A kernel setting was written.
    Sysctl {
        /// The setting.
        name: Sysctl,
        /// What it was.
        old: String,
        /// What was written.
        new: String,
    },
    /// An XDP program was attached.
    Xdp {
        /// The interface.
        interface: String,
        /// Its index.
        ifindex: u32,
        /// `native` or `generic`.
        mode: String,
    },
    /// The hook for tc programs was created.
    Clsact {
        /// The interface.
        interface: String,
        /// Its index.
        ifindex: u32,
    },
    /// A tc program was attached.
    TcFilter {
        /// The interface.
        interface: String,
        /// Its index.
        ifindex: u32,
        /// Which way it looks.
        direction: Direction,
    },
}

impl Change {
    /// Whether both are about the same thing, whatever its values.
    fn concerns_same(&self, other: &Self) -> bool {
        use Change::{Clsact, Link, Offload, Sysctl, TcFilter, Xdp};
        match (self, other) {
            (Link { interface: a, .. }, Link { interface: b, .. })
            | (Xdp { interface: a, .. }, Xdp { interface: b, .. })
            | (Clsact { interface: a, .. }, Clsact { interface: b, .. }) => a == b,
            (
                Offload {
                    interface: a,
                    feature: f,
                    ..
                },
                Offload {
                    interface: b,
                    feature: g,
                    ..
                },
            ) => a == b && f == g,
            (
                TcFilter {
                    interface: a,
                    direction: d,
                    ..
                },
                TcFilter {
                    interface: b,
                    direction: e,
                    ..
                },
            ) => a == b && d == e,
            (Sysctl { name: a, .. }, Sysctl { name: b, .. }) => a == b,
            _ => false,
        }
    }

    /// Takes the older value of an entry about the same thing.
    fn keep_oldest(&mut self, before: &Self) {
        match (self, before) {
            (
                Self::Offload { ifindex, old, .. },
                Self::Offload {
                    ifindex: index_before,
                    old: old_before,
                    ..
                },
            ) if ifindex == index_before => *old = *old_before,
            (Self::Sysctl { old, .. }, Self::Sysctl { old: oldest, .. }) => {
                old.clone_from(oldest);
            }
            _ => {}
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on_off = |on: &bool| if *on { "on" } else { "off" };
        match self {
            Self::Link { interface, .. } => write!(f, "{interface}: created"),
            Self::Offload {
                interface,
                feature,
                old,
                new,
                ..
            } => write!(
                f,
                "{interface}: offload {feature} {}, was {}",
                on_off(new),
                on_off(old)
            ),
            Self::Sysctl { name, old, new } => write!(f, "sysctl {name}: {new}, was {old}"),
            Self::Xdp {
                interface, mode, ..
            } => write!(f, "{interface}: XDP program attached ({mode})"),
            Self::Clsact { interface, .. } => write!(f, "{interface}: clsact created"),
            Self::TcFilter {
                interface,
                direction,
                ..
            } => {
                let direction = match direction {
                    Direction::Ingress => "ingress",
                    Direction::Egress => "egress",
                };
                write!(f, "{interface}: tc {direction} program attached")
            }
        }
    }
}

/// The journal of changes of one runtime folder, in the calling thread's network namespace.
#[derive(Debug)]
pub struct Changes {
    journal: Journal,
    list: Vec<Change>,
}

impl Changes {
    /// Opens the journal that an earlier daemon left in this folder, or begins one. Entries from
    /// before the last boot are gone with what they were about; those of another network
    /// namespace are laid aside for a daemon there.
    pub fn open(runtime_dir: &Path) -> Result<Self, Error> {
        let (journal, list) = Journal::open(runtime_dir)?;
        Ok(Self { journal, list })
    }

    /// Everything that is changed now, oldest first.
    pub fn list(&self) -> &[Change] {
        &self.list
    }

    /// The folder that the journal lies in.
    pub fn runtime_dir(&self) -> &Path {
        self.journal.runtime_dir()
    }

    /// The alias of links that belong to this folder's daemon.
    pub fn alias(&self) -> String {
        format!("xtproxy {}", self.runtime_dir().display())
    }

    /// Writes a change down. Call it before making the change; it is on the disk afterwards.
    pub fn record(&mut self, mut change: Change) -> Result<(), Error> {
        let mut list = self.list.clone();
        match list.iter_mut().find(|entry| entry.concerns_same(&change)) {
            Some(entry) if *entry == change => return Ok(()),
            Some(entry) => {
                change.keep_oldest(entry);
                *entry = change;
            }
            None => list.push(change),
        }
        self.replace(list)
    }

    /// Strikes a change out: it was undone, or never came about.
    pub fn forget(&mut self, change: &Change) -> Result<(), Error> {
        let mut list = self.list.clone();
        list.retain(|entry| !entry.concerns_same(change));
        if list.len() == self.list.len() {
            return Ok(());
        }
        self.replace(list)
    }

    fn replace(&mut self, list: Vec<Change>) -> Result<(), Error> {
        self.journal.write(&list)?;
        self.list = list;
        Ok(())
    }

    /// Switches an offload, and writes down how it was if it was otherwise.
    pub async fn set_offload(
        &mut self,
        netlink: &Netlink,
        link: &Link,
        feature: &str,
        on: bool,
    ) -> Result<(), Error> {
        let offloads = netlink.offloads(link).await?;
        let offload = offloads.require(&link.name, feature)?;
        if offload.active == on {
            return Ok(());
        }
        let change = Change::Offload {
            interface: link.name.clone(),
            ifindex: link.ifindex,
            feature: feature.to_owned(),
            old: offload.active,
            new: on,
        };
        let known = self.list.iter().any(|entry| entry.concerns_same(&change));
        self.record(change.clone())?;
        let done = netlink.set_offloads(link, &[(feature, on)]).await;
        if done.is_err() && !known {
            self.forget(&change)?;
        }
        done
    }

    /// Writes a kernel setting, and writes down what it was if it was otherwise.
    pub fn set_sysctl(&mut self, name: &Sysctl, value: &str) -> Result<(), Error> {
        let old = name.read()?;
        if old == value {
            return Ok(());
        }
        let change = Change::Sysctl {
            name: name.clone(),
            old,
            new: value.to_owned(),
        };
        let known = self.list.iter().any(|entry| entry.concerns_same(&change));
        self.record(change.clone())?;
        let done = name.write(value);
        if done.is_err() && !known {
            self.forget(&change)?;
        }
        done
    }
}
