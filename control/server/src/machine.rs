//! What the server asks of the daemon around it.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::time::Duration;

use pipeline::LogRecord;
use protocol::{
    Counters, Explanation, Failure, Port, PortStats, Probe, Rules, RulesChecked, RulesLoaded,
    Status, ZoneMatrix,
};

/// What the daemon alone knows, and what it alone can do.
///
/// Some calls come from the control thread: they answer from memory, or by one quick system
/// call. The others come from threads that may take their time, and several at once.
pub trait Machine: Send + Sync {
    /// Now, by the clock of the flow table. Control thread.
    fn now_ns(&self) -> u64;
    /// All but the counts of flows and registrations, which the server fills in. Control thread.
    fn status(&self) -> Status;
    /// The ports, in the order of the configuration. Control thread.
    fn ports(&self) -> Vec<Port>;
    /// What XDP programs and rings counted, per port. Control thread.
    fn port_stats(&self) -> Vec<PortStats>;
    /// Where the frames of worker `id` are. Control thread.
    fn frames(&self, id: u32) -> Counters;
    /// What worker `id` counted besides the pipeline's counters. Control thread.
    fn loop_counters(&self, id: u32) -> Counters;
    /// The names behind a record's numbers; none if its rules are not remembered any more.
    /// Control thread, and often.
    fn log_words(&self, record: &LogRecord) -> Option<LogWords>;
    /// Where the connection of this socket of the box, captured at `connect`, meant to go. A
    /// proxy waits for the answer.
    fn captured(&self, cookie: u64) -> Option<SocketAddrV4>;
    /// The rules in force. May take its time.
    fn rules(&self) -> Rules;
    /// Puts a ruleset in force, whole or not at all. May take its time and calls `progress` with
    /// what is being done, how much of it is done and how much there is (0: nobody knows), as
    /// often as it likes. Never twice at once. A trial ends at its deadline by the machine's own
    /// doing.
    ///
    /// # Errors
    /// What to tell the administrator; nothing has changed.
    fn load(
        &self,
        order: &LoadOrder,
        progress: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<RulesLoaded, Failure>;
    /// Reads and compiles a ruleset, and does nothing with it. Otherwise like
    /// [`Machine::load`], and may run beside it.
    ///
    /// # Errors
    /// What to tell the administrator.
    fn check(
        &self,
        order: &LoadOrder,
        progress: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<RulesChecked, Failure>;
    /// Makes the rules of a trial stay. May take its time.
    ///
    /// # Errors
    /// There is no such trial (any more).
    fn keep(&self, ticket: u64) -> Result<(), Failure>;
    /// Ends a trial: the former rules are in force when this returns. May take its time.
    ///
    /// # Errors
    /// There is no such trial (any more), or the former rules cannot come back.
    fn revert(&self, ticket: u64) -> Result<(), Failure>;
    /// Walks an invented packet through the rules. May take its time.
    ///
    /// # Errors
    /// What of the packet makes no sense.
    fn explain(&self, packet: &Probe) -> Result<Explanation, Failure>;
    /// Zones, services, and who may reach whom. May take its time.
    fn zones(&self) -> ZoneMatrix;
}

/// A ruleset to be loaded or checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LoadOrder {
    /// Its file: an absolute path.
    pub ruleset: PathBuf,
    /// The file of its sets, likewise.
    pub sets: Option<PathBuf>,
    /// Only for so long, unless it is kept.
    pub try_for: Option<Duration>,
    /// The file that gets the same text, in one step, once it is in force. Not with `try_for`.
    pub replace: Option<PathBuf>,
}

/// The names behind the numbers of a [`LogRecord`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogWords {
    /// The LOG rule's prefix.
    pub prefix: String,
    /// Its table.
    pub table: Option<String>,
    /// Its chain.
    pub chain: Option<String>,
    /// Its line in the ruleset's file.
    pub line: Option<u32>,
    /// The client's zone, where zones refuse.
    pub from_zone: Option<String>,
    /// The server's.
    pub to_zone: Option<String>,
    /// The service that was refused.
    pub service: Option<String>,
    /// The interface that the packet came in by; empty: the box itself sent it.
    pub in_interface: String,
    /// The interface that it would go out by; empty if that is not known.
    pub out_interface: String,
}
