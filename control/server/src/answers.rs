//! From requests to replies, for what fits one line.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use pipeline::{DropReason, Event};
use protocol::{Counters, DropCount, Stats, Status, WorkerStats};
use registry::{Registry, RegistryCounts};

use crate::examples::LatestExamples;
use crate::gathering::Gathering;
use crate::journal::Journal;
use crate::rulesets::Turns;
use crate::{Sources, WorkerSource};

/// How often in one step the registry may say that it has more to do.
const REGISTRY_TURNS: usize = 50;

/// The sources, and what the server itself keeps.
pub(crate) struct Answers {
    pub(crate) sources: Sources,
    /// What was logged.
    pub(crate) journal: Journal,
    /// Who may load rules.
    pub(crate) turns: Turns,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    examples: LatestExamples,
    gathering: Gathering,
    /// Flows that went because their time was over.
    expired: u64,
    /// Flows that somebody killed.
    killed: u64,
}

impl Answers {
    pub(crate) fn new(sources: Sources) -> Self {
        Self {
            sources,
            journal: Journal::default(),
            turns: Turns::default(),
            kept: Mutex::default(),
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.sources.machine.now_ns()
    }

    /// What is registered. Not to be held over a system call that a client can hold up.
    pub(crate) fn registry(&self) -> MutexGuard<'_, Registry> {
        let registry = self.sources.registry.lock();
        registry.unwrap_or_else(PoisonError::into_inner)
    }

    /// One step of what has to be done again and again: bounded, however large the table.
    pub(crate) fn upkeep(&self, cursor: &mut u32) {
        let flows = &self.sources.flows;
        // The whole table within a hundred steps; a huge one takes longer.
        let capacity = u32::try_from(flows.counts().capacity).unwrap_or(u32::MAX);
        let budget = (capacity / 100).clamp(1024, 32 * 1024);
        let now_ns = self.now_ns();
        self.keep_up_registry(now_ns);
        let expired = flows.expire(cursor, budget, now_ns, &self.sources.timeouts, |_| {});
        let entries = self.change(|kept| {
            kept.expired += expired as u64;
            kept.examples.collect(&self.sources.workers);
            kept.gathering.step(&self.sources, &kept.examples, now_ns)
        });
        self.journal.put(entries);
    }

    /// Clients have their turn in between.
    fn keep_up_registry(&self, now_ns: u64) {
        for _ in 0..REGISTRY_TURNS {
            if !self.registry().upkeep(now_ns) {
                return;
            }
            thread::yield_now();
        }
    }

    /// Notes that somebody killed `count` flows.
    pub(crate) fn count_killed(&self, count: u64) {
        self.change(|kept| kept.killed += count);
    }

    pub(crate) fn status(&self) -> Status {
        let mut status = self.sources.machine.status();
        let counts = self.sources.flows.counts();
        status.flows = counts.live as u64;
        status.flows_max = counts.capacity as u64;
        let counts = self.registry().counts();
        status.registrations = counts.live + counts.orphaned;
        status.registrations_max = counts.capacity;
        status
    }

    pub(crate) fn stats(&self, with_examples: bool) -> Stats {
        let machine = &self.sources.machine;
        let (flows, examples) = self.change(|kept| {
            let examples = if with_examples {
                kept.examples.collect(&self.sources.workers);
                kept.examples.tell(machine.now_ns())
            } else {
                Vec::new()
            };
            (self.flow_counters(kept), examples)
        });
        Stats {
            workers: self
                .sources
                .workers
                .iter()
                .map(|worker| self.worker(worker))
                .collect(),
            ports: machine.port_stats(),
            flows,
            registrations: registration_counters(self.registry().counts()),
            drops: DropReason::ALL
                .iter()
                .map(|reason| self.drops(*reason))
                .collect(),
            examples,
        }
    }

    fn flow_counters(&self, kept: &Kept) -> Counters {
        let counts = self.sources.flows.counts();
        Counters::from_iter([
            ("live", counts.live as u64),
            ("resting", counts.resting as u64),
            ("free", counts.free as u64),
            ("capacity", counts.capacity as u64),
            ("expired", kept.expired),
            ("killed", kept.killed),
        ])
    }

    fn worker(&self, worker: &WorkerSource) -> WorkerStats {
        let events = Event::ALL
            .iter()
            .map(|event| (event.name(), worker.counters.events(*event)));
        let mut counters = Counters::from_iter(events);
        counters.merge(&self.sources.machine.loop_counters(worker.id));
        WorkerStats {
            id: worker.id,
            core: worker.core,
            counters,
            frames: self.sources.machine.frames(worker.id),
        }
    }

    fn drops(&self, reason: DropReason) -> DropCount {
        let workers = self.sources.workers.iter();
        DropCount {
            reason: reason.name().into(),
            packets: workers.map(|worker| worker.counters.drops(reason)).sum(),
            explanation: reason.explanation().into(),
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Kept) -> T) -> T {
        change(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn registration_counters(counts: RegistryCounts) -> Counters {
    Counters::from_iter([
        ("live", counts.live),
        ("orphaned", counts.orphaned),
        ("capacity", counts.capacity),
        ("made", counts.made),
        ("ended", counts.ended),
        ("refused", counts.refused),
        ("adopted", counts.adopted),
        ("damaged", counts.damaged),
        ("resyncs", counts.resyncs),
        ("failures", counts.failures),
    ])
}
