//! Drops that are going on, told at most once a second for each reason.

use std::collections::HashMap;

use pipeline::{DropExample, DropReason, EXAMPLE_BYTES};
use protocol::{LogEntry, LogKind};

use crate::pace::{Backoff, SECOND_NS};
use crate::packet::packet;

/// What has been told of each reason.
#[derive(Default)]
pub(crate) struct DropWatch(HashMap<DropReason, Told>);

#[derive(Default)]
struct Told {
    count: u64,
    at_ns: Option<u64>,
    /// Whether an example was waited for: a worker counts first.
    has_waited: bool,
    traced: Backoff,
}

impl DropWatch {
    /// Looks at a reason's counter. An entry, if it is time for one; its time is to be filled in.
    pub(crate) fn look(
        &mut self,
        reason: DropReason,
        count: u64,
        example: Option<&DropExample>,
        now_ns: u64,
    ) -> Option<LogEntry> {
        let told = self.0.entry(reason).or_default();
        let new = count.saturating_sub(told.count);
        let is_due = (told.at_ns).is_none_or(|at| now_ns.saturating_sub(at) >= SECOND_NS);
        let fresh = example.filter(|example| told.at_ns.is_none_or(|at| example.at_ns >= at));
        let is_early = fresh.is_none() && !told.has_waited;
        let mut entry = None;
        if new > 0 && is_due && is_early {
            told.has_waited = true;
        } else if new > 0 && is_due {
            told.count = count;
            told.at_ns = Some(now_ns);
            told.has_waited = false;
            entry = Some(tell(reason, new, fresh));
        }
        let told_now = entry.as_ref().map_or(0, |entry| entry.count);
        if let Some(count) = told.traced.count(told_now, now_ns) {
            trace(reason, count, entry.as_ref());
        }
        entry
    }
}

fn tell(reason: DropReason, count: u64, example: Option<&DropExample>) -> LogEntry {
    // Where the frame came from is not known, and on the host port the addresses are marks.
    let packet =
        example.and_then(|example| packet(head(&example.head, example.frame_bytes), false));
    LogEntry {
        kind: LogKind::Drop,
        prefix: reason.name().into(),
        count,
        packet,
        ..LogEntry::default()
    }
}

/// What of `bytes` is the frame's.
pub(crate) fn head(bytes: &[u8; EXAMPLE_BYTES], frame_bytes: u32) -> &[u8] {
    let length = usize::try_from(frame_bytes).unwrap_or(usize::MAX);
    &bytes[..length.min(EXAMPLE_BYTES)]
}

fn trace(reason: DropReason, packets: u64, entry: Option<&LogEntry>) {
    let packet = entry.and_then(|entry| entry.packet.as_ref());
    let example = packet.map_or_else(String::new, |packet| format!(", the last:{packet}"));
    let name = reason.name();
    tracing::info!(target: "xtproxy::drop", "{name}: {packets} packets dropped{example}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::tests::SYN;

    const REASON: DropReason = DropReason::ForwardDenied;

    fn example(at_ns: u64) -> DropExample {
        let mut head = [0; EXAMPLE_BYTES];
        head[..SYN.len()].copy_from_slice(&SYN);
        DropExample {
            reason: REASON,
            at_ns,
            frame_bytes: SYN.len() as u32,
            head,
        }
    }

    #[test]
    fn one_entry_a_second_with_all_that_were_dropped() {
        let mut watch = DropWatch::default();
        let start = 7 * SECOND_NS;
        let first = example(start);
        let entry = watch.look(REASON, 3, Some(&first), start).unwrap();
        assert_eq!((entry.kind, entry.count), (LogKind::Drop, 3));
        assert_eq!(entry.prefix, "forward_denied");
        let packet = entry.packet.unwrap();
        assert_eq!(
            (packet.sport, packet.dport, packet.mac),
            (Some(4660), Some(80), None)
        );
        let mut look = |count, at| watch.look(REASON, count, Some(&example(at)), at);
        assert_eq!(look(3, start + SECOND_NS), None, "nothing new");
        assert_eq!(look(4, start + SECOND_NS).map(|entry| entry.count), Some(1));
        assert_eq!(look(9, start + 2 * SECOND_NS - 1), None, "too early");
        let later = look(11, start + 2 * SECOND_NS);
        assert_eq!(later.map(|entry| entry.count), Some(7), "none is left out");
    }

    #[test]
    fn an_old_example_is_none() {
        let mut watch = DropWatch::default();
        let start = 7 * SECOND_NS;
        assert!(
            watch
                .look(REASON, 1, Some(&example(start)), start)
                .is_some()
        );
        let stale = example(start - 1);
        let now = start + 2 * SECOND_NS;
        assert_eq!(
            watch.look(REASON, 2, Some(&stale), now),
            None,
            "waits for one"
        );
        let entry = watch.look(REASON, 2, Some(&stale), now + 1).unwrap();
        assert_eq!((entry.count, entry.packet), (1, None), "but not forever");
    }

    #[test]
    fn reasons_are_told_apart() {
        let mut watch = DropWatch::default();
        assert!(watch.look(REASON, 1, Some(&example(1)), 1).is_some());
        let other = DropExample {
            reason: DropReason::RuleDrop,
            ..example(1)
        };
        let entry = watch
            .look(DropReason::RuleDrop, 1, Some(&other), 1)
            .unwrap();
        assert_eq!(entry.prefix, "rule_drop");
    }
}
