//! `-m limit`, and rates as it and `-m hashlimit` write them.

use std::fmt;

use super::{Test, Tests};
use crate::error::{Fault, Parsed, quoted};
use crate::lexer::Word;
use crate::option::{OptSpec, Options, plain};
use crate::place::Place;
use crate::value::number;

pub(super) const OPTIONS: &[OptSpec] = &[
    plain(&["--limit"], "a rate, as in 5/sec, 10/min or 3/hour"),
    plain(&["--limit-burst"], "a number of 1 to 10000"),
];

/// The burst of a limit that names none, as in iptables.
const BURST: u32 = 5;
/// The highest rate that iptables can write, per second.
const FASTEST: u32 = 10_000;

/// How often a rule may match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit {
    /// So many times ...
    pub times: u32,
    /// ... in this time.
    pub period: Period,
    /// So many times at once.
    pub burst: u32,
}

/// The time of a rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Period {
    /// `/sec`
    Second,
    /// `/min`
    Minute,
    /// `/hour`
    Hour,
    /// `/day`
    Day,
}

impl Period {
    /// Its length in seconds.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Second => "sec",
            Self::Minute => "min",
            Self::Hour => "hour",
            Self::Day => "day",
        })
    }
}

impl fmt::Display for Limit {
    /// The rate alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.times, self.period)
    }
}

impl Limit {
    /// Whether its burst need not be said.
    pub(crate) const fn has_usual_burst(self) -> bool {
        self.burst == BURST
    }
}

pub(super) fn tests(options: &Options<'_>, place: Place, tests: &mut Tests) -> Parsed<()> {
    let rate = match options.get("--limit") {
        Some(given) => rate(given.value())?,
        // As in iptables.
        None => (3, Period::Hour),
    };
    let burst = burst(options, "--limit-burst")?;
    let (times, period) = rate;
    let limit = Limit {
        times,
        period,
        burst,
    };
    match options.any_of(&["--limit", "--limit-burst"]) {
        Some(given) => tests.put(&given, Test::Limit(limit)),
        None => tests.put_at(place, Test::Limit(limit)),
    }
    Ok(())
}

pub(super) fn burst(options: &Options<'_>, name: &str) -> Parsed<u32> {
    let Some(given) = options.get(name) else {
        return Ok(BURST);
    };
    let word = given.value();
    let burst = number(&word.text).filter(|burst| (1..=10_000).contains(burst));
    burst.ok_or_else(|| {
        let message = format!(
            "{} is not a burst; write a number of 1 to 10000",
            quoted(&word.text)
        );
        Fault::new(word.place, message)
    })
}

pub(super) fn rate(word: &Word) -> Parsed<(u32, Period)> {
    let text = word.text.to_ascii_lowercase();
    let (times, unit) = text.split_once('/').unwrap_or((&text, "second"));
    let names = [
        ("second", Period::Second),
        ("minute", Period::Minute),
        ("hour", Period::Hour),
        ("day", Period::Day),
    ];
    // `s`, `sec` and `second` are the same word.
    let period = names
        .iter()
        .find(|(name, _)| !unit.is_empty() && name.starts_with(unit))
        .map(|(_, period)| *period);
    let times = number(times).filter(|times| *times > 0);
    let Some((times, period)) = times.zip(period) else {
        let message = if unit.ends_with("b/s") || text.ends_with("b/s") {
            format!(
                "{} is a rate of bytes; only packets are counted here, as in 10/sec",
                quoted(&word.text)
            )
        } else {
            format!(
                "{} is not a rate; write a number and sec, min, hour or day, as in 10/min",
                quoted(&word.text)
            )
        };
        return Err(Fault::new(word.place, message));
    };
    if times / period.seconds() > FASTEST {
        let message = format!(
            "{} is too fast; at most {FASTEST}/sec can be written",
            quoted(&word.text)
        );
        return Err(Fault::new(word.place, message));
    }
    Ok((times, period))
}
