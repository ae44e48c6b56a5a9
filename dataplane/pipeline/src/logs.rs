//! What rules want written down.

use crossbeam::queue::ArrayQueue;
use policy::{Hook, PortId, RuleId, ZoneDenial};

use crate::drops::EXAMPLE_BYTES;

/// Records that wait for the control thread.
const RECORDS_WAITING: usize = 1024;

/// What a record is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogKind {
    /// A LOG rule has matched.
    Rule(RuleId),
    /// The zones did not let a connection pass.
    Zone(ZoneDenial),
}

/// One packet that is to be written down.
#[derive(Clone, Copy, Debug)]
pub struct LogRecord {
    /// Why.
    pub what: LogKind,
    /// The policy whose rule it was: a [`RuleId`] means nothing in another one.
    pub generation: u32,
    /// The filter chain of the way that the packet was on; none before its way was known.
    pub hook: Option<Hook>,
    /// When.
    pub at_ns: u64,
    /// The port that it came in by; none if the box sent it.
    pub in_port: Option<PortId>,
    /// The port that it would leave by, where that was known.
    pub out_port: Option<PortId>,
    /// The mark that rules had set.
    pub mark: u32,
    /// The frame's whole length.
    pub frame_bytes: u32,
    /// Its first bytes; `frame_bytes` of them if that is fewer.
    pub head: [u8; EXAMPLE_BYTES],
}

/// Where a worker leaves records for whoever writes them down. What finds no room is lost, and
/// counted: the beginning of a flood says more than its end.
#[derive(Debug)]
pub struct Logs {
    queue: ArrayQueue<LogRecord>,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            queue: ArrayQueue::new(RECORDS_WAITING),
        }
    }
}

impl Logs {
    /// Takes the oldest record.
    #[must_use]
    pub fn take(&self) -> Option<LogRecord> {
        self.queue.pop()
    }

    /// False if there was no room.
    pub(crate) fn put(&self, record: LogRecord) -> bool {
        self.queue.push(record).is_ok()
    }
}
