//! What proxies have registered: the operations of TProxy 2.0, who may use which foreign
//! address, what clashes with what, and how long each registration lives.
//!
//! Invariants: a refused operation changes nothing; an endpoint is diverted before a worker can
//! find its registration, and stays diverted until the registration has ended and no flow of
//! its owner lives, so that nothing leaves it untranslated; a registration ends with its socket,
//! not with a process.
//! Never here: sockets, BPF, netlink (those are behind [`World`]), clocks (time is an argument).

mod adopt;
mod answer;
mod client;
mod counts;
mod ending;
mod entry;
mod error;
mod making;
mod names;
mod owners;
mod ports;
mod record;
mod refusal;
mod registry;
mod store;
mod telling;
mod terms;
mod users;
mod world;

pub use client::{Client, Grant, Socket};
pub use counts::{RegistryCounts, Row};
pub use error::Error;
pub use registry::{Adopted, Registry, RegistryConfig};
pub use store::FILE;
pub use telling::taken;
pub use terms::flags;
pub use world::{AliveSocket, News, Way, World};
