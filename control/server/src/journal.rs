//! The latest log entries, for those who ask and those who follow.
//!
//! Invariant: nobody who follows holds anything up. Each has a place in one ring; whom the ring
//! overtakes is told how much he has missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use protocol::{LogEntry, LogKind};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// How many entries are kept.
const ENTRIES: usize = 4096;
/// How many may follow at once: half of the control connections.
const FOLLOWERS_MAX: usize = 16;

/// The latest entries.
pub(crate) struct Journal {
    ring: Mutex<Ring>,
    /// The number that the next entry gets.
    news: watch::Sender<u64>,
    seats: Arc<Semaphore>,
}

#[derive(Default)]
struct Ring {
    entries: VecDeque<LogEntry>,
    /// The number that the next entry gets.
    next: u64,
}

impl Ring {
    fn first(&self) -> u64 {
        self.next - self.entries.len() as u64
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            ring: Mutex::default(),
            news: watch::Sender::new(0),
            seats: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
        }
    }
}

impl Journal {
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds entries; the oldest give way.
    pub(crate) fn put(&self, entries: Vec<LogEntry>) {
        if entries.is_empty() {
            return;
        }
        let mut ring = self.ring();
        for entry in entries {
            if ring.entries.len() == ENTRIES {
                ring.entries.pop_front();
            }
            ring.entries.push_back(entry);
            ring.next += 1;
        }
        let next = ring.next;
        drop(ring);
        self.news.send_replace(next);
    }

    /// The number of the first of the last `tail` entries, and that of the next one to come.
    pub(crate) fn last(&self, tail: u32) -> (u64, u64) {
        let ring = self.ring();
        let tail = u64::from(tail).min(ring.entries.len() as u64);
        (ring.next - tail, ring.next)
    }

    /// At most `most` entries from `cursor` on, which moves on. Before them, how many have gone
    /// that should have been here.
    pub(crate) fn read(&self, cursor: &mut u64, most: usize) -> Vec<LogEntry> {
        let ring = self.ring();
        let missed = ring.first().saturating_sub(*cursor);
        *cursor += missed;
        let skipped = usize::try_from(*cursor - ring.first()).unwrap_or(usize::MAX);
        let found = ring.entries.iter().skip(skipped).take(most);
        let mut read = Vec::new();
        if missed > 0 {
            read.push(LogEntry {
                at_ns: ring.entries.front().map_or(0, |entry| entry.at_ns),
                ..lost(missed)
            });
        }
        read.extend(found.cloned());
        *cursor += read.len() as u64 - u64::from(missed > 0);
        read
    }

    /// Wakes whoever waits for entries.
    pub(crate) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// A follower's seat, if one is free.
    pub(crate) fn seat(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.seats).try_acquire_owned().ok()
    }
}

/// That `count` entries are missing.
pub(crate) fn lost(count: u64) -> LogEntry {
    LogEntry {
        kind: LogKind::Lost,
        count,
        ..LogEntry::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(numbers: std::ops::Range<u64>) -> Vec<LogEntry> {
        let entry = |n| LogEntry {
            at_ns: n,
            count: 1,
            ..LogEntry::default()
        };
        numbers.map(entry).collect()
    }

    fn numbers(entries: &[LogEntry]) -> Vec<u64> {
        entries.iter().map(|entry| entry.at_ns).collect()
    }

    #[test]
    fn the_tail_and_what_comes() {
        let journal = Journal::default();
        assert_eq!(journal.last(10), (0, 0));
        journal.put(numbered(0..5));
        assert_eq!(journal.last(2), (3, 5));
        assert_eq!(journal.last(9), (0, 5));
        let (mut cursor, _) = journal.last(2);
        assert_eq!(numbers(&journal.read(&mut cursor, 1)), [3]);
        assert_eq!(numbers(&journal.read(&mut cursor, 9)), [4]);
        assert!(journal.read(&mut cursor, 9).is_empty());
        journal.put(numbered(5..7));
        assert_eq!(numbers(&journal.read(&mut cursor, 9)), [5, 6]);
    }

    #[test]
    fn whom_the_ring_overtakes_hears_of_it_once() {
        let journal = Journal::default();
        let mut cursor = 0;
        let many = ENTRIES as u64 + 100;
        journal.put(numbered(0..many));
        let read = journal.read(&mut cursor, 2);
        assert_eq!((read[0].kind, read[0].count), (LogKind::Lost, 100));
        assert_eq!(numbers(&read[1..]), [100, 101]);
        assert_eq!(numbers(&journal.read(&mut cursor, 2)), [102, 103]);
        let (mut cursor, next) = journal.last(u32::MAX);
        let read = journal.read(&mut cursor, usize::MAX);
        assert_eq!((read.len(), next), (ENTRIES, many), "no more are kept");
    }

    #[test]
    fn seats_are_given_back() {
        let journal = Journal::default();
        let seats: Vec<_> = std::iter::from_fn(|| journal.seat()).take(99).collect();
        assert_eq!(seats.len(), FOLLOWERS_MAX);
        drop(seats);
        assert!(journal.seat().is_some());
    }
}
