//! The latest example of each kind of drop.

use std::collections::HashMap;
use std::fmt::Write;

use pipeline::{DropExample, DropReason};
use protocol::Example;

use crate::WorkerSource;
use crate::decode::decode;
use crate::drops::head;

/// The latest example of each kind of drop, of all workers.
#[derive(Default)]
pub(crate) struct LatestExamples(HashMap<DropReason, DropExample>);

impl LatestExamples {
    /// Takes what the workers have left.
    pub(crate) fn collect(&mut self, workers: &[WorkerSource]) {
        for worker in workers {
            while let Some(example) = worker.examples.take() {
                self.keep(example);
            }
        }
    }

    fn keep(&mut self, example: DropExample) {
        let latest = self.0.entry(example.reason).or_insert(example);
        if latest.at_ns <= example.at_ns {
            *latest = example;
        }
    }

    /// The latest for a reason.
    pub(crate) fn of(&self, reason: DropReason) -> Option<&DropExample> {
        self.0.get(&reason)
    }

    /// All that there are, in the order of the reasons.
    pub(crate) fn tell(&self, now_ns: u64) -> Vec<Example> {
        let known = DropReason::ALL
            .iter()
            .filter_map(|reason| self.0.get(reason));
        known.map(|example| tell(example, now_ns)).collect()
    }
}

fn tell(example: &DropExample, now_ns: u64) -> Example {
    let head = head(&example.head, example.frame_bytes);
    Example {
        reason: example.reason.name().into(),
        age_ns: now_ns.saturating_sub(example.at_ns),
        length: u64::from(example.frame_bytes),
        decoded: decode(head),
        frame: head.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        }),
    }
}

#[cfg(test)]
mod tests {
    use pipeline::EXAMPLE_BYTES;

    use super::*;

    fn example(reason: DropReason, at_ns: u64, frame_bytes: u32) -> DropExample {
        DropExample {
            reason,
            at_ns,
            frame_bytes,
            head: [0xab; EXAMPLE_BYTES],
        }
    }

    #[test]
    fn the_latest_of_each_reason_is_told() {
        let mut latest = LatestExamples::default();
        latest.keep(example(DropReason::NoFlow, 5, 1500));
        latest.keep(example(DropReason::Truncated, 7, 3));
        latest.keep(example(DropReason::NoFlow, 9, 60));
        // Of another worker, and late.
        latest.keep(example(DropReason::NoFlow, 8, 61));
        let told = latest.tell(10);
        let brief: Vec<_> = told
            .iter()
            .map(|e| (e.reason.as_str(), e.age_ns, e.length, e.frame.len()))
            .collect();
        assert_eq!(brief, [("truncated", 3, 3, 6), ("no_flow", 1, 60, 120)]);
        latest.keep(example(DropReason::NoFlow, 11, 9000));
        assert_eq!(
            latest.tell(11)[1].frame,
            "ab".repeat(EXAMPLE_BYTES),
            "only the beginning is kept"
        );
    }
}
