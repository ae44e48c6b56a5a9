//! The question to the rules alone, without the packet's way.

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use policy::{Arrival, Packet, Policy, RuleId, Sink};

use crate::rulesets::Shape;

/// Counts as a worker does: one number for each rule.
struct Counts {
    hits: Vec<u64>,
    logged: u64,
}

impl Sink for Counts {
    fn matched(&mut self, rule: RuleId, packet: &Packet) {
        if let Some(hits) = self.hits.get_mut(rule.0 as usize) {
            *hits += u64::from(packet.bytes);
        }
    }

    fn log(&mut self, _: RuleId, _: &Packet) {
        self.logged += 1;
    }
}

/// A policy with questions for it.
pub struct Question {
    policy: Policy,
    packets: Vec<Packet>,
    counts: Counts,
    /// How long it took to make the rules ready.
    pub build_ms: f64,
}

impl Question {
    pub fn new(shape: Shape, rules: u32, packets: usize) -> Result<Self> {
        let program = shape.program(rules);
        let begun = Instant::now();
        let policy = Policy::new(program).context(shape.name())?;
        let build_ms = begun.elapsed().as_secs_f64() * 1e3;
        let counts = Counts {
            hits: vec![0; policy.rule_count()],
            logged: 0,
        };
        Ok(Self {
            policy,
            packets: shape.packets(rules, packets),
            counts,
            build_ms,
        })
    }

    /// Nanoseconds for each packet: on arrival, and at the door of the box.
    pub fn ask(&mut self) -> Result<f64> {
        let begun = Instant::now();
        for packet in &self.packets {
            let mut packet = *packet;
            let arrival = self.policy.arrive(&mut packet, false, &mut self.counts);
            packet.is_tproxy = matches!(arrival, Arrival::Redirect { .. });
            black_box(self.policy.input(&mut packet, &mut self.counts)).ok();
        }
        let spent = begun.elapsed();
        let is_met = self.counts.hits.iter().any(|hits| *hits > 0);
        ensure!(is_met, "the packets meet no rule");
        Ok(spent.as_secs_f64() * 1e9 / self.packets.len() as f64)
    }
}
