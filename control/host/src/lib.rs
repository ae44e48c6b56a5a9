//! What the daemon does to the box and reads from it: links, addresses, offloads, sysctls, the
//! host port, its own runtime folder and privileges.
//!
//! Invariants: everything acts in the calling thread's network namespace; what is changed is
//! written into the journal ([`Changes`]) before it is changed.
//! Never here: packets, rules, BPF programs.
//!
//! All of it needs a tokio runtime with I/O and time; a current-thread one is enough.

mod addresses;
mod changes;
mod error;
mod ethtool;
mod host_port;
mod journal;
mod kernel;
mod links;
mod nearest;
mod netlink;
mod offloads;
mod privileges;
mod qdisc;
mod restore;
mod runtime_dir;
mod sysctl;
mod watch;

pub use addresses::{Address4, Address6, Addresses, Own4};
pub use changes::{Change, Changes, Direction};
pub use error::Error;
pub use host_port::HostPort;
pub use kernel::{KernelVersion, check as check_kernel};
pub use links::Link;
pub use nearest::nearest;
pub use netlink::Netlink;
pub use offloads::{Offload, Offloads, RX_VLAN};
pub use privileges::require as require_privileges;
pub use restore::Unrestored;
pub use runtime_dir::RuntimeDir;
pub use sysctl::Sysctl;
pub use watch::{Snapshot, Watch};
