//! The configuration: TOML text in, a checked [`Config`] out.
//!
//! Invariant: a `Config` names only zones that exist, and only values that the rest of the daemon
//! can work with. An error is one line with file, line and column.
//! Never here: a look at the network; that an interface exists is for the host room to say.

mod check;
mod error;
mod grants;
mod services;
mod text;
mod zones;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::Ipv4Net;
use serde::Deserialize;

pub use error::ConfigError;

/// The folder of control socket, lock and journal if none is configured.
pub const RUNTIME_DIR: &str = "/run/xtproxy";
/// More than that is no configuration.
const BYTES_MAX: u64 = 1 << 20;

/// What the daemon was told to do.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The folder of control socket, lock and journal; absolute.
    pub runtime_dir: PathBuf,
    /// The rules; absolute, and there when it was looked.
    pub ruleset: Option<PathBuf>,
    /// The cores to work on; `None` leaves the choice to the daemon.
    pub workers: Option<Vec<usize>>,
    /// Whether workers spin instead of sleeping.
    pub busy: bool,
    /// What happens to transit when the daemon is gone.
    pub on_exit: OnExit,
    /// The name of the kernel's side of the host port.
    pub host_port: String,
    /// The NICs, in the order of the file; at least one.
    pub ports: Vec<Port>,
    /// The zones by name.
    pub zones: BTreeMap<String, Zone>,
    /// What proxies offer, by name.
    pub services: BTreeMap<String, Service>,
    /// What becomes of established flows when rules change.
    pub established: Established,
    /// What passes to the box itself whatever happens.
    pub management: Vec<Management>,
    /// Who may use which foreign addresses, besides root.
    pub grants: Vec<Grant>,
    /// Sizes.
    pub limits: Limits,
    /// When idle flows go.
    pub timeouts: Timeouts,
    /// What is allowed and yet probably not meant, one line each.
    pub warnings: Vec<String>,
}

/// What happens to transit when the daemon is gone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExit {
    /// It is dropped.
    #[default]
    Closed,
    /// The kernel has it.
    Open,
}

/// How frames are taken off a NIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The best that binds.
    #[default]
    Auto,
    /// By the driver, without a copy.
    Zerocopy,
    /// By the driver, with a copy.
    Copy,
    /// Without the driver's help.
    Generic,
}

/// A NIC that the dataplane works on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Port {
    /// The interface's name.
    pub interface: String,
    /// The zone of what no zone's network claims.
    pub zone: Option<String>,
    /// How frames are taken off it.
    pub mode: Mode,
}

/// A part of the network.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Zone {
    /// The addresses in it.
    pub networks: Vec<Ipv4Net>,
    /// The zone that it is a part of.
    pub parent: Option<String>,
    /// Services that may be reached in it: `None` as its parent has it, or all.
    pub inbound: Option<Vec<String>>,
    /// Services that may be used from it, likewise.
    pub outbound: Option<Vec<String>>,
}

/// What a proxy offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Service {
    /// Where the proxy listens.
    pub proxy: SocketAddrV4,
}

/// What becomes of established flows when rules change.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Established {
    /// The new rules are asked about each at its next packet.
    #[default]
    Judge,
    /// They stay.
    Keep,
}

/// A protocol that has ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A service of the box itself that is always reached.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Management {
    /// The zone that was named, if one was.
    pub zone: Option<String>,
    /// Where it is reached from: the zone's networks or those given; at least one.
    pub networks: Vec<Ipv4Net>,
    /// The service's protocol.
    pub proto: Proto,
    /// The service's port.
    pub port: u16,
}

/// Foreign addresses that a user or a group may register.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Who.
    pub whom: Whom,
    /// Which addresses; at least one network.
    pub foreign: Vec<Ipv4Net>,
}

/// A user or a group, by its number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whom {
    /// The user with this number.
    User(u32),
    /// Whoever is in the group with this number.
    Group(u32),
}

/// Sizes that are fixed at start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Flows at the same time.
    pub flows: usize,
    /// Registered sockets at the same time.
    pub registrations: usize,
    /// Frames of each worker's memory region; a power of two.
    pub frames_per_worker: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows: 262_144,
            registrations: 131_072,
            frames_per_worker: 8192,
        }
    }
}

/// How long a flow may be idle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// An established TCP connection (RFC 5382: at least 2 hours 4 minutes).
    pub tcp_established: Duration,
    /// One that is being opened.
    pub tcp_handshake: Duration,
    /// One that is being closed (RFC 5382: at least 4 minutes).
    pub tcp_transitory: Duration,
    /// One that both sides have closed, or one has reset.
    pub tcp_closed: Duration,
    /// UDP (RFC 4787: at least 2 minutes, better 5).
    pub udp: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tcp_established: Duration::from_secs(7440),
            tcp_handshake: Duration::from_secs(60),
            tcp_transitory: Duration::from_secs(240),
            tcp_closed: Duration::from_secs(70),
            udp: Duration::from_secs(300),
        }
    }
}

impl Config {
    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|error| ConfigError::whole(path, format!("cannot be read: {error}")))?;
        if bytes.len() as u64 > BYTES_MAX {
            return Err(ConfigError::whole(path, "is larger than 1 MiB"));
        }
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let cores: Vec<usize> = cores.into_iter().map(|core| core.id).collect();
        Self::parse(&bytes, path, &cores)
    }

    /// Checks a file's content, for a machine with these cores.
    fn parse(bytes: &[u8], path: &Path, cores: &[usize]) -> Result<Self, ConfigError> {
        let text = error::text(bytes, path)?;
        text::parse(text)
            .and_then(|file| check::check(file, path, cores))
            .map_err(|fault| fault.at(path, text))
    }
}
