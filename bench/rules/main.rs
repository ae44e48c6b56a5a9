//! What a ruleset's size costs a new flow: rulesets of a few rules and of many, of the same
//! shape, in turn. Measured is the whole way of a first packet, from the frame to the flow in the
//! table and the frame rewritten, and beside it the question to the rules alone.
//!
//! Needs no rights: `cargo build --release -p xtproxy-bench --bin bench-rules`, then
//! `target/release/bench-rules`. Times belong to the machine and its load at that time;
//! ratios are of neighbouring measurements.

mod instructions;
#[path = "../registrations/machine.rs"]
mod machine;
mod passage;
mod question;
mod report;
mod rulesets;
mod ways;

use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Parser;

use passage::{Passage, Table};
use question::Question;
use report::{Pair, Report, Row};
use rulesets::Shape;
use ways::{MOST_PACKETS, Way};

/// Measures rulesets of two sizes against each other.
#[derive(Parser)]
struct Arguments {
    /// The rules of the small ruleset.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    few: u32,
    /// The rules of the large one.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    many: u32,
    /// How often each is measured, in turn.
    #[arg(long, default_value_t = 31, value_parser = clap::value_parser!(u32).range(3..=1000))]
    rounds: u32,
    /// After how many seconds of one figure no further round begins; three are made in any case.
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Different first packets; one measurement takes each through once.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=i64::from(MOST_PACKETS)))]
    packets: u32,
    /// Room in the flow table.
    #[arg(long, default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(131_072..=16_777_216))]
    flows: u32,
    /// Only this shape.
    #[arg(long)]
    shape: Option<String>,
    /// Only this way.
    #[arg(long)]
    way: Option<Way>,
    /// Count instructions too, by callgrind; takes minutes.
    #[arg(long)]
    instructions: bool,
    /// One JSON document instead of a table.
    #[arg(long)]
    json: bool,
    /// Take the packets through so many rules once, and report nothing.
    #[arg(long, hide = true)]
    once: Option<u32>,
}

impl Arguments {
    fn shapes(&self) -> impl Iterator<Item = Shape> {
        let only = self.shape.as_deref();
        let all = Shape::ALL.into_iter();
        all.filter(move |shape| only.is_none_or(|only| only == shape.name()))
    }

    fn ways(&self, shape: Shape) -> impl Iterator<Item = Way> {
        let all = Way::of(shape).iter().copied();
        all.filter(|way| self.way.is_none_or(|only| only == *way))
    }
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut table = Table::new(arguments.flows as usize);
    let mut rows = Vec::new();
    for shape in arguments.shapes() {
        for way in arguments.ways(shape) {
            if let Some(rules) = arguments.once {
                Passage::new(&table, shape, way, (rules, arguments.packets))?.pass(&mut table)?;
            } else {
                rows.push(measure(&mut table, shape, way, &arguments)?);
            }
        }
    }
    if arguments.once.is_some() {
        return Ok(());
    }
    ensure!(
        !rows.is_empty(),
        "no shape has this name, or not this way; without --shape and --way all are measured"
    );
    let report = Report {
        machine: machine::describe()?,
        few: arguments.few,
        many: arguments.many,
        rounds: arguments.rounds,
        rows,
    };
    if arguments.json {
        println!("{:#}", report.json());
    } else {
        println!("{report}");
    }
    Ok(())
}

fn measure(table: &mut Table, shape: Shape, way: Way, arguments: &Arguments) -> Result<Row> {
    let Arguments {
        few, many, packets, ..
    } = *arguments;
    let mut small = Passage::new(table, shape, way, (few, packets))?;
    let mut large = Passage::new(table, shape, way, (many, packets))?;
    let flow = in_turn(arguments, |is_many| {
        let side = if is_many { &mut large } else { &mut small };
        side.pass(table)
    })?;
    let mut small = Question::new(shape, few, packets as usize)?;
    let mut large = Question::new(shape, many, packets as usize)?;
    let question = in_turn(arguments, |is_many| {
        let side = if is_many { &mut large } else { &mut small };
        side.ask()
    })?;
    let instructions = if arguments.instructions {
        let few = instructions::count(shape, way, few)?;
        let many = instructions::count(shape, way, many)?;
        Some(Pair {
            few,
            many,
            keeps: few / many,
        })
    } else {
        None
    };
    Ok(Row {
        shape,
        way,
        flow,
        question,
        instructions,
        build_ms: large.build_ms,
    })
}

/// Measures both after each has been warmed up. Who comes first changes.
fn in_turn(arguments: &Arguments, mut measure: impl FnMut(bool) -> Result<f64>) -> Result<Pair> {
    measure(false)?;
    measure(true)?;
    let (mut few, mut many, mut keeps) = (Vec::new(), Vec::new(), Vec::new());
    let begun = Instant::now();
    for round in 0..arguments.rounds {
        if round >= 3 && begun.elapsed().as_secs() >= arguments.seconds {
            break;
        }
        let is_many_first = round % 2 == 1;
        let first = measure(is_many_first)?;
        let second = measure(!is_many_first)?;
        let (a, b) = if is_many_first {
            (second, first)
        } else {
            (first, second)
        };
        few.push(a);
        many.push(b);
        keeps.push(a / b);
    }
    Ok(Pair {
        few: median(few),
        many: median(many),
        keeps: median(keeps),
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
