//! What a ruleset's size costs a new flow: rulesets of a few rules and of many, of the same
//! shape, asked in turn about the first packets of flows as a worker asks them.
//!
//! Needs no rights: `cargo build --release -p xtproxy-bench --bin bench-rules`, then
//! `target/release/bench-rules`. Times belong to the machine and its load at that time;
//! ratios are of neighbouring measurements.

#[path = "../rulesets.rs"]
mod rulesets;

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use policy::{Arrival, Packet, Policy, RuleId, Sink};
use rulesets::Shape;

/// Measures rulesets of two sizes against each other.
#[derive(Parser)]
struct Arguments {
    /// The rules of the small ruleset.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(5..=1_000_000))]
    few: u32,
    /// The rules of the large one.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(5..=1_000_000))]
    many: u32,
    /// How often each is measured, in turn.
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u32).range(3..=1000))]
    rounds: u32,
    /// Different first packets; one measurement asks about each once.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    packets: u32,
    /// Only this shape.
    #[arg(long)]
    shape: Option<String>,
    /// One JSON document instead of a table.
    #[arg(long)]
    json: bool,
}

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
struct Side {
    policy: Policy,
    packets: Vec<Packet>,
    counts: Counts,
    build_ms: f64,
}

impl Side {
    fn new(shape: Shape, rules: u32, packets: usize) -> Result<Self> {
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

    /// Nanoseconds for each new flow: on arrival, and at the door of the box.
    fn ask(&mut self) -> f64 {
        let begun = Instant::now();
        for packet in &self.packets {
            let mut packet = *packet;
            let arrival = self.policy.arrive(&mut packet, false, &mut self.counts);
            packet.is_tproxy = matches!(arrival, Arrival::Redirect { .. });
            black_box(self.policy.input(&mut packet, &mut self.counts)).ok();
        }
        begun.elapsed().as_secs_f64() * 1e9 / self.packets.len() as f64
    }
}

struct Row {
    shape: Shape,
    few_ns: f64,
    many_ns: f64,
    /// Of the small ruleset's rate, what the large one keeps.
    keeps: f64,
    build_ms: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut rows = Vec::new();
    for shape in Shape::ALL {
        if arguments
            .shape
            .as_deref()
            .is_some_and(|only| only != shape.name())
        {
            continue;
        }
        rows.push(measure(shape, &arguments)?);
    }
    ensure!(
        !rows.is_empty(),
        "no shape has this name; without --shape all are measured"
    );
    if arguments.json {
        let shapes = rows.iter().map(|row| {
            serde_json::json!({
                "shape": row.shape.name(), "few_ns": row.few_ns, "many_ns": row.many_ns,
                "keeps": row.keeps, "build_ms": row.build_ms,
            })
        });
        let all = serde_json::json!({
            "few": arguments.few, "many": arguments.many, "rounds": arguments.rounds,
            "shapes": shapes.collect::<Vec<_>>(),
        });
        println!("{all:#}");
        return Ok(());
    }
    println!(
        "one new flow, median of {} rounds in turn; keeps: of the rate with {} rules, what {} leave\n\
         {:<14} {:>10} {:>10} {:>7} {:>12}",
        arguments.rounds,
        arguments.few,
        arguments.many,
        "shape",
        "few ns",
        "many ns",
        "keeps",
        "made in ms"
    );
    for row in &rows {
        println!(
            "{:<14} {:>10.1} {:>10.1} {:>7.2} {:>12.1}",
            row.shape.name(),
            row.few_ns,
            row.many_ns,
            row.keeps,
            row.build_ms
        );
    }
    Ok(())
}

fn measure(shape: Shape, arguments: &Arguments) -> Result<Row> {
    let packets = arguments.packets as usize;
    let mut few = Side::new(shape, arguments.few, packets)?;
    let mut many = Side::new(shape, arguments.many, packets)?;
    few.ask();
    many.ask();
    let (mut few_ns, mut many_ns, mut keeps) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..arguments.rounds {
        // Who comes first changes.
        let (a, b) = if round % 2 == 0 {
            let a = few.ask();
            (a, many.ask())
        } else {
            let b = many.ask();
            (few.ask(), b)
        };
        few_ns.push(a);
        many_ns.push(b);
        keeps.push(a / b);
    }
    let hit = many.counts.hits.iter().filter(|hits| **hits > 0).count();
    ensure!(hit > 0, "{}: the packets meet no rule", shape.name());
    Ok(Row {
        shape,
        few_ns: median(few_ns),
        many_ns: median(many_ns),
        keeps: median(keeps),
        build_ms: many.build_ms,
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
