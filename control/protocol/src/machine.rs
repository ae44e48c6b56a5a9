//! The daemon, its ports and counters as the control socket tells them.

use serde::{Deserialize, Serialize};

use crate::{Counters, RulesPending};

/// What the daemon is and does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The daemon's version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// `starting`, `ready` or `draining`.
    pub state: String,
    /// Nanoseconds since its start.
    pub uptime_ns: u64,
    /// The configuration file.
    pub config: String,
    /// The ruleset file, if there is one.
    pub ruleset: Option<String>,
    /// The generation of the rules in force.
    pub rule_generation: u32,
    /// The trial that they are, if they are one.
    #[serde(default)]
    pub rules_pending: Option<RulesPending>,
    /// What becomes of transit without the daemon: `closed` or `open`.
    pub on_exit: String,
    /// The host port's interface.
    pub host_port: Option<String>,
    /// The workers.
    pub workers: Vec<Worker>,
    /// The ports.
    pub ports: Vec<Port>,
    /// Flows now in the table.
    pub flows: u64,
    /// Flows that the table can hold.
    pub flows_max: u64,
    /// Registrations now in force, orphans included.
    #[serde(default)]
    pub registrations: u64,
    /// Registrations that there can be.
    #[serde(default)]
    pub registrations_max: u64,
    /// What the daemon changed on the box.
    pub changes: Vec<Change>,
    /// What the administrator should know.
    pub warnings: Vec<String>,
}

/// A worker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// Its number, which is also the queue that it serves on every port.
    pub id: u32,
    /// The core that it is pinned to.
    pub core: Option<u32>,
}

/// A port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// The interface.
    pub interface: String,
    /// Its index in the kernel.
    pub ifindex: u32,
    /// Its zone.
    pub zone: Option<String>,
    /// The mode that the configuration asks for.
    pub mode: String,
    /// The mode that its sockets got: `zerocopy`, `copy` or `generic`.
    pub bound: String,
    /// How the program is attached: `native` or `generic`.
    pub xdp: String,
    /// The program's id in the kernel.
    pub program_id: Option<u32>,
    /// Its queues.
    pub queues: u32,
    /// Its MAC address.
    pub mac: String,
    /// Its MTU.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Whether it has carrier.
    pub up: bool,
}

/// A setting of the box that the daemon changed, or a thing that it created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What: `link xtp0`, `ethtool eth1 tcp-segmentation-offload`, `xdp eth1`.
    pub what: String,
    /// What it was, where it was anything.
    pub before: Option<String>,
    /// What it is now.
    pub after: String,
}

/// All counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Per worker.
    pub workers: Vec<WorkerStats>,
    /// Per port.
    pub ports: Vec<PortStats>,
    /// Of the flow table.
    pub flows: Counters,
    /// Of the registrations.
    #[serde(default)]
    pub registrations: Counters,
    /// Drops of all workers by reason; every reason is here, zero or not.
    pub drops: Vec<DropCount>,
    /// The latest dropped frame of each reason, where asked for.
    #[serde(default)]
    pub examples: Vec<Example>,
}

/// Frames dropped for one reason.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropCount {
    /// The reason's name.
    pub reason: String,
    /// How many frames.
    pub packets: u64,
    /// What the reason means.
    pub explanation: String,
}

/// One worker's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStats {
    /// The worker's number.
    pub id: u32,
    /// Its core.
    pub core: Option<u32>,
    /// What it did.
    pub counters: Counters,
    /// Where its frames are.
    pub frames: Counters,
}

/// One port's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortStats {
    /// The interface.
    pub interface: String,
    /// Packets by verdict of the XDP program.
    pub xdp: Counters,
    /// What the sockets' rings counted.
    #[serde(default)]
    pub rings: Counters,
}

/// A dropped frame, kept to be looked at.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Example {
    /// Why it was dropped.
    pub reason: String,
    /// Nanoseconds since then.
    pub age_ns: u64,
    /// How long the frame was; `frame` may hold only its beginning.
    pub length: u64,
    /// What it is, in one line.
    pub decoded: String,
    /// Its bytes, in hexadecimal.
    pub frame: String,
}
