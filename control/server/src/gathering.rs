//! From what the workers leave to log entries, and some of them to the daemon's own log.
//!
//! Invariant: bounded work for each step, however much the workers log.

use std::time::{SystemTime, UNIX_EPOCH};

use pipeline::{DropReason, Event, LogKind as What, LogRecord};
use protocol::{LogEntry, LogKind};

use crate::drops::{DropWatch, head};
use crate::examples::LatestExamples;
use crate::journal::lost;
use crate::machine::LogWords;
use crate::pace::{Pace, SECOND_NS};
use crate::packet::packet;
use crate::{Sources, WorkerSource};

/// How many records of a worker are taken in one step.
const RECORDS_PER_STEP: usize = 1024;

/// What lines of the daemon's log are counted by: a rule, or all refusals between zones.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Topic {
    Rule(u32),
    Zones,
}

/// What has been gathered so far.
#[derive(Default)]
pub(crate) struct Gathering {
    pace: Pace<Topic>,
    drops: DropWatch,
    lost: Lost,
}

/// Records that found no room in a worker's queue.
#[derive(Default)]
struct Lost {
    count: u64,
    at_ns: Option<u64>,
}

impl Gathering {
    /// What is new, oldest first.
    pub(crate) fn step(
        &mut self,
        sources: &Sources,
        examples: &LatestExamples,
        now_ns: u64,
    ) -> Vec<LogEntry> {
        let dates = Dates::new(now_ns, SystemTime::now());
        let records = sources.workers.iter().flat_map(waiting).collect();
        let words = |record: &_| sources.machine.log_words(record);
        let mut entries = self.tell_all(records, words, dates);
        for reason in DropReason::ALL {
            let counters = sources.workers.iter().map(|worker| &worker.counters);
            let count = counters.map(|counters| counters.drops(*reason)).sum();
            let found = self
                .drops
                .look(*reason, count, examples.of(*reason), now_ns);
            entries.extend(found.map(|entry| dates.date(entry)));
        }
        let counters = sources.workers.iter().map(|worker| &worker.counters);
        let count = counters.map(|one| one.events(Event::LogsLost)).sum();
        let found = self.lost.look(count, now_ns);
        entries.extend(found.map(|entry| dates.date(entry)));
        entries
    }

    fn tell_all(
        &mut self,
        mut records: Vec<LogRecord>,
        words: impl Fn(&LogRecord) -> Option<LogWords>,
        dates: Dates,
    ) -> Vec<LogEntry> {
        for (name, more) in self.pace.end(dates.now_ns) {
            tracing::info!(target: "xtproxy::log", "{name}: {more} more");
        }
        // Of several workers.
        records.sort_by_key(|record| record.at_ns);
        let mut tell = |record: &LogRecord| {
            let entry = tell(record, words(record), dates);
            self.trace(record, &entry, dates.now_ns);
            entry
        };
        records.iter().map(&mut tell).collect()
    }

    fn trace(&mut self, record: &LogRecord, entry: &LogEntry, now_ns: u64) {
        let topic = match record.what {
            What::Rule(rule) => Topic::Rule(rule.0),
            What::Zone(_) => Topic::Zones,
        };
        if self.pace.admits(topic, now_ns, || name_of(entry)) {
            tracing::info!(target: "xtproxy::log", "{entry}");
        }
    }
}

impl Lost {
    fn look(&mut self, count: u64, now_ns: u64) -> Option<LogEntry> {
        let new = count.saturating_sub(self.count);
        let is_due = self
            .at_ns
            .is_none_or(|at| now_ns.saturating_sub(at) >= SECOND_NS);
        if new == 0 || !is_due {
            return None;
        }
        *self = Self {
            count,
            at_ns: Some(now_ns),
        };
        tracing::warn!(target: "xtproxy::log", "{new} log entries lost: more than can be told");
        Some(lost(new))
    }
}

fn waiting(worker: &WorkerSource) -> impl Iterator<Item = LogRecord> {
    std::iter::from_fn(|| worker.logs.take()).take(RECORDS_PER_STEP)
}

/// What an entry's topic is called.
fn name_of(entry: &LogEntry) -> String {
    match (entry.kind, &entry.chain, entry.line) {
        (LogKind::Zone, ..) => "zone_denied".into(),
        (_, Some(chain), Some(line)) => format!("LOG rule in {chain}, line {line}"),
        _ => "a LOG rule".into(),
    }
}

fn tell(record: &LogRecord, words: Option<LogWords>, dates: Dates) -> LogEntry {
    let words = words.unwrap_or_default();
    let named = |name: String| (!name.is_empty()).then_some(name);
    LogEntry {
        at_ns: dates.of(record.at_ns),
        kind: match record.what {
            What::Rule(_) => LogKind::Rule,
            What::Zone(_) => LogKind::Zone,
        },
        generation: record.generation,
        prefix: words.prefix,
        count: 1,
        table: words.table,
        chain: words.chain,
        line: words.line,
        from_zone: words.from_zone,
        to_zone: words.to_zone,
        service: words.service,
        in_interface: named(words.in_interface),
        out_interface: named(words.out_interface),
        mark: record.mark,
        // What the box sends has a mark of ours for a source.
        packet: packet(
            head(&record.head, record.frame_bytes),
            record.in_port.is_some(),
        ),
    }
}

/// From the flow table's clock to the calendar.
#[derive(Clone, Copy)]
struct Dates {
    now_ns: u64,
    today_ns: u64,
}

impl Dates {
    fn new(now_ns: u64, today: SystemTime) -> Self {
        let since = today.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            now_ns,
            today_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
        }
    }

    /// An entry of now.
    fn date(self, entry: LogEntry) -> LogEntry {
        LogEntry {
            at_ns: self.today_ns,
            ..entry
        }
    }

    /// The date of a moment that is over, or just beginning on another core.
    fn of(self, at_ns: u64) -> u64 {
        self.today_ns
            .saturating_sub(self.now_ns.saturating_sub(at_ns))
    }
}

#[cfg(test)]
#[path = "gathering_tests.rs"]
mod tests;
