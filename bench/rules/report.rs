//! What is told of the measurements.

use std::fmt;

use serde_json::{Value, json};

use crate::rulesets::Shape;
use crate::ways::Way;

/// What the large ruleset has to keep of the small one's rate of new flows.
const WANTED: f64 = 0.5;

/// The same of a small ruleset and of a large one.
#[derive(Clone, Copy)]
pub struct Pair {
    pub few: f64,
    pub many: f64,
    /// Of the small ruleset's rate, what the large one keeps.
    pub keeps: f64,
}

impl Pair {
    fn json(&self) -> Value {
        json!({ "few": self.few, "many": self.many, "keeps": self.keeps })
    }
}

pub struct Row {
    pub shape: Shape,
    pub way: Way,
    /// Nanoseconds of the whole way.
    pub flow: Pair,
    /// Nanoseconds of the question alone; the same on every way.
    pub question: Pair,
    pub instructions: Option<Pair>,
    pub build_ms: f64,
}

impl Row {
    fn json(&self) -> Value {
        json!({
            "shape": self.shape.name(), "way": self.way.name(), "flow_ns": self.flow.json(),
            "question_ns": self.question.json(), "build_ms": self.build_ms,
            "instructions": self.instructions.as_ref().map(Pair::json),
        })
    }
}

pub struct Report {
    pub machine: String,
    pub few: u32,
    pub many: u32,
    pub rounds: u32,
    pub rows: Vec<Row>,
}

impl Report {
    /// Where the large ruleset keeps too little.
    fn missed(&self) -> Vec<String> {
        let missed = self.rows.iter().filter(|row| row.flow.keeps < WANTED);
        missed
            .map(|row| format!("{}/{}", row.shape.name(), row.way.name()))
            .collect()
    }

    pub fn json(&self) -> Value {
        json!({
            "machine": self.machine, "few": self.few, "many": self.many, "rounds": self.rounds,
            "wanted": WANTED, "missed": self.missed(),
            "rows": self.rows.iter().map(Row::json).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.machine)?;
        writeln!(
            f,
            "medians of at most {} rounds in turn; keeps: of the rate with {} rules, what {} leave\n\
             {:<20}   {:^24}   {:^24}   {:^24}   {:>8}",
            self.rounds,
            self.few,
            self.many,
            "",
            "new flow, ns",
            "question alone, ns",
            "new flow, instructions",
            "made in"
        )?;
        let titles = format!("{:>8} {:>8} {:>6}", "few", "many", "keeps");
        writeln!(
            f,
            "{:<13} {:<6}   {titles}   {titles}   {titles}   {:>8}",
            "shape", "way", "ms"
        )?;
        for row in &self.rows {
            write!(f, "{:<13} {:<6}", row.shape.name(), row.way.name())?;
            for pair in [Some(row.flow), Some(row.question), row.instructions] {
                match pair {
                    Some(Pair { few, many, keeps }) => {
                        write!(f, "   {few:>8.0} {many:>8.0} {keeps:>6.2}")?;
                    }
                    None => write!(f, "   {:>8} {:>8} {:>6}", "-", "-", "-")?,
                }
            }
            writeln!(f, "   {:>8.1}", row.build_ms)?;
        }
        match self.missed().as_slice() {
            [] => write!(f, "all keep {WANTED} or more"),
            missed => write!(f, "less than {WANTED}: {}", missed.join(", ")),
        }
    }
}
