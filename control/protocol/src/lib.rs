//! Words of the control sockets: requests and replies, one JSON document per line.
//!
//! Invariant: names and meanings of fields never change within one [`VERSION`]; new
//! optional fields may be added, and readers ignore what they do not know.
//! Never here: sockets, tables, clocks.
//!
//! `docs/control-socket.md` describes the same for other languages.

mod counters;
mod filter;
mod flow;
mod log;
mod machine;
mod registration;
mod reply;
mod request;
mod rules;
mod zones;

pub use counters::Counters;
pub use filter::{FilterError, FlowFilter, Network, PortRange, proto_name, proto_number};
pub use flow::{Direction, Flow, FlowKind, FlowState, Path, UnknownName};
pub use log::{LogEntry, LogKind, LogPacket};
pub use machine::{
    Change, DropCount, Example, Port, PortStats, Stats, Status, Worker, WorkerStats,
};
pub use registration::{FlagName, Registration, RegistrationState};
pub use reply::{ErrorKind, Failure, Reply};
pub use request::{Envelope, Request};
pub use rules::{
    ExplainStep, Explanation, Probe, RuleChain, RuleRow, RuleTable, Rules, RulesChecked,
    RulesLoaded, RulesPending,
};
pub use zones::{Service, Zone, ZoneMatrix, ZoneReach};

/// The version of the words; a request names it and the daemon refuses another.
pub const VERSION: u32 = 1;

/// The socket for root: every request.
pub const CONTROL_SOCKET: &str = "control.sock";

/// The socket for proxies of any user: only [`Request::OriginalDestination`]
/// and [`Request::Channel`].
pub const CLIENT_SOCKET: &str = "client.sock";

/// Where the daemon keeps its sockets if nothing else is said.
pub const DEFAULT_RUNTIME_DIR: &str = "/run/xtproxy";

/// The environment variable that names another runtime directory.
pub const RUNTIME_DIR_VARIABLE: &str = "XTPROXY_RUNTIME_DIR";

/// The longest request line, its newline included.
pub const REQUEST_MAX_BYTES: usize = 64 * 1024;

/// The longest reply line that a reader has to take, its newline included. Long lists
/// come as several lines.
pub const REPLY_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Serialises one line, its newline included.
///
/// # Errors
/// When a value cannot be written as JSON, which no type of this crate does.
pub fn line<T: serde::Serialize>(value: &T) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}
