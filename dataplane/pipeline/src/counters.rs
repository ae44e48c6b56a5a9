//! What one worker has counted. One writer, relaxed stores; anybody reads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use policy::RuleId;

use crate::drops::DropReason;

macro_rules! events {
    ($($(#[doc = $doc:literal])+ $name:ident = $text:literal,)+) => {
        /// What else is counted.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Event {
            $($(#[doc = $doc])+ $name,)+
        }

        impl Event {
            /// Every event, in the order of their counters.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The name that people and JSON see.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

events! {
    /// Frames from the wire.
    FromWire = "from_wire",
    /// Frames from the stack.
    FromStack = "from_stack",
    /// Frames to the wire.
    ToWire = "to_wire",
    /// Frames to the stack.
    ToStack = "to_stack",
    /// Flows made by a redirect.
    Redirected = "flows_redirected",
    /// Flows made by a connection to or from a taken endpoint itself.
    Local = "flows_local",
    /// Flows made by a connection to a registered foreign endpoint.
    Listened = "flows_listened",
    /// Flows made by a connection from a registered foreign endpoint.
    Connected = "flows_connected",
    /// Flows replaced by a new connection on the same tuple.
    Reopened = "flows_reopened",
    /// Flows whose source port is shown changed, to tell two connections apart.
    PortChanged = "ports_changed",
    /// Resets sent to refuse a connection.
    Refused = "resets_sent",
    /// ICMP errors translated.
    IcmpTranslated = "icmp_translated",
    /// What REJECT has told: ICMP errors and resets.
    Rejected = "rejects_sent",
    /// What REJECT would have told, had there not been too many.
    RejectsLimited = "rejects_limited",
    /// Directions of flows that new rules were asked about.
    Rejudged = "rejudged",
    /// Flows removed because the new rules would not have made them.
    Revoked = "flows_revoked",
    /// Log records for which there was no room.
    LogsLost = "logs_lost",
}

/// The counters of one worker, on lines of their own.
#[repr(align(64))]
#[derive(Debug)]
pub struct Counters {
    drops: [AtomicU64; DropReason::ALL.len()],
    events: [AtomicU64; Event::ALL.len()],
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            drops: std::array::from_fn(|_| AtomicU64::new(0)),
            events: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

fn add(counter: Option<&AtomicU64>, n: u64) {
    if let Some(counter) = counter {
        counter.store(counter.load(Relaxed).wrapping_add(n), Relaxed);
    }
}

impl Counters {
    /// How many frames were dropped for a reason.
    #[must_use]
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops
            .get(reason as usize)
            .map_or(0, |counter| counter.load(Relaxed))
    }

    /// How often an event happened.
    #[must_use]
    pub fn events(&self, event: Event) -> u64 {
        self.events
            .get(event as usize)
            .map_or(0, |counter| counter.load(Relaxed))
    }

    /// Counts a drop. To be called by the worker that owns the counters, and nobody else.
    pub fn count_drop(&self, reason: DropReason) {
        add(self.drops.get(reason as usize), 1);
    }

    pub(crate) fn count(&self, event: Event) {
        add(self.events.get(event as usize), 1);
    }
}

/// What the rules have matched: a table for each worker, so that no line is shared.
#[derive(Debug)]
pub struct RuleHits {
    workers: Box<[Box<[[AtomicU64; 2]]>]>,
}

impl RuleHits {
    /// Counters for `rules` rules and `workers` workers.
    #[must_use]
    pub fn new(workers: usize, rules: usize) -> Self {
        let zero = || [AtomicU64::new(0), AtomicU64::new(0)];
        let table = || std::iter::repeat_with(zero).take(rules).collect();
        Self {
            workers: std::iter::repeat_with(table).take(workers).collect(),
        }
    }

    /// Packets and bytes that a rule has matched. A rule hears of a packet only when it is asked about it.
    #[must_use]
    pub fn read(&self, rule: RuleId) -> (u64, u64) {
        let cells = self
            .workers
            .iter()
            .filter_map(|table| table.get(rule.0 as usize));
        cells.fold((0, 0), |(packets, bytes), [p, b]| {
            (packets + p.load(Relaxed), bytes + b.load(Relaxed))
        })
    }

    pub(crate) fn count(&self, worker: usize, rule: RuleId, bytes: u64) {
        if let Some([p, b]) = self
            .workers
            .get(worker)
            .and_then(|table| table.get(rule.0 as usize))
        {
            add(Some(p), 1);
            add(Some(b), bytes);
        }
    }
}
