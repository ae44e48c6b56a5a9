//! `-m hashlimit`: a limit for each source, destination or pair of them.

use policy::HashKey;

use super::limit::{burst, rate};
use super::{Limit, Test, Tests};
use crate::error::{Fault, Parsed, did_you_mean_or, is_printable, quoted};
use crate::lexer::Word;
use crate::option::{OptSpec, Options, plain};
use crate::place::Place;
use crate::value::number;

const RATE: &str = "a rate, as in 5/sec or 10/min";
pub(super) const OPTIONS: &[OptSpec] = &[
    plain(&["--hashlimit-upto", "--hashlimit"], RATE),
    plain(&["--hashlimit-above"], RATE),
    plain(&["--hashlimit-burst"], "a number of 1 to 10000"),
    plain(
        &["--hashlimit-mode"],
        "a list of srcip, srcport, dstip and dstport",
    ),
    plain(&["--hashlimit-name"], "a name, as in ssh"),
    plain(&["--hashlimit-srcmask"], "a number of bits, 0 to 32"),
    plain(&["--hashlimit-dstmask"], "a number of bits, 0 to 32"),
    plain(&["--hashlimit-htable-size"], "a number"),
    plain(&["--hashlimit-htable-max"], "a number of entries"),
    plain(&["--hashlimit-htable-expire"], "a number of milliseconds"),
    plain(
        &["--hashlimit-htable-gcinterval"],
        "a number of milliseconds",
    ),
];

/// The longest name, in bytes (`NAME_MAX` of the kernel's directory entries there).
const NAME_BYTES: usize = 255;

/// What `-m hashlimit` asks. Rules with one name share one table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HashLimit {
    /// The rate and the burst of each entry.
    pub limit: Limit,
    /// Whether it holds above the rate, not up to it.
    pub above: bool,
    /// What parts packets into entries; nothing puts them all into one.
    pub by: Vec<HashKey>,
    /// The table's name.
    pub name: String,
    /// How many bits of a source tell entries apart.
    pub source_bits: u8,
    /// How many bits of a destination tell entries apart.
    pub destination_bits: u8,
    /// The size of the kernel's table; kept for printing.
    pub size: u32,
    /// How many entries the table holds; 0 for the usual number.
    pub most: u32,
    /// How long an idle entry stays, in milliseconds.
    pub expire_ms: u32,
    /// How often the kernel looks for idle entries, in milliseconds; kept for printing.
    pub gc_ms: u32,
}

/// As in the kernel.
pub(super) const EXPIRE_MS: u32 = 10_000;
/// As in the kernel.
pub(super) const GC_MS: u32 = 1000;

/// What packets are told apart by, in the order of printing.
pub(super) const MODES: [(&str, HashKey); 4] = [
    ("srcip", HashKey::SourceIp),
    ("srcport", HashKey::SourcePort),
    ("dstip", HashKey::DestinationIp),
    ("dstport", HashKey::DestinationPort),
];

pub(super) fn tests(options: &Options<'_>, place: Place, tests: &mut Tests) -> Parsed<()> {
    let wanted = options.only_one_of(&["--hashlimit-upto", "--hashlimit-above"])?;
    let Some(given) = wanted else {
        let message = "`-m hashlimit` needs a rate, as in --hashlimit-upto 5/sec";
        return Err(Fault::new(place, message));
    };
    let (times, period) = rate(given.value())?;
    let name = options.get("--hashlimit-name").ok_or_else(|| {
        let message = "`-m hashlimit` needs a name for its table, as in --hashlimit-name ssh";
        Fault::new(place, message)
    })?;
    let limit = Limit {
        times,
        period,
        burst: burst(options, "--hashlimit-burst")?,
    };
    let modes = options.get("--hashlimit-mode");
    let found = HashLimit {
        limit,
        above: given.spec.name() == "--hashlimit-above",
        by: modes.map_or(Ok(Vec::new()), |given| keys(given.value()))?,
        name: table_name(name.value())?,
        source_bits: bits(options, "--hashlimit-srcmask")?,
        destination_bits: bits(options, "--hashlimit-dstmask")?,
        size: whole(options, "--hashlimit-htable-size", 0)?,
        most: whole(options, "--hashlimit-htable-max", 0)?,
        expire_ms: whole(options, "--hashlimit-htable-expire", EXPIRE_MS)?,
        gc_ms: whole(options, "--hashlimit-htable-gcinterval", GC_MS)?,
    };
    tests.put(&given, Test::HashLimit(Box::new(found)));
    Ok(())
}

fn keys(word: &Word) -> Parsed<Vec<HashKey>> {
    let mut given = Vec::new();
    for name in word.text.split(',') {
        let lower = name.to_ascii_lowercase();
        let known = MODES.iter().find(|(known, _)| *known == lower);
        let (_, key) = known.ok_or_else(|| {
            let names = MODES.iter().map(|(name, _)| *name);
            let cure = did_you_mean_or(name, names, "there are srcip, srcport, dstip, dstport");
            Fault::new(word.place, format!("unknown mode {}{cure}", quoted(name)))
        })?;
        given.push(*key);
    }
    let ordered = MODES.iter().map(|(_, key)| *key);
    Ok(ordered.filter(|key| given.contains(key)).collect())
}

fn table_name(word: &Word) -> Parsed<String> {
    let odd = |c: char| c == '/' || c == '"' || !is_printable(c);
    if word.text.is_empty() || word.text.len() > NAME_BYTES || word.text.contains(odd) {
        let message = format!("{} cannot be the name of a table", quoted(&word.text));
        return Err(Fault::new(word.place, message));
    }
    Ok(word.text.clone())
}

fn bits(options: &Options<'_>, name: &str) -> Parsed<u8> {
    let Some(given) = options.get(name) else {
        return Ok(32);
    };
    let word = given.value();
    number(&word.text)
        .filter(|bits| *bits <= 32)
        .ok_or_else(|| {
            let message = format!("{} is not a number of bits, 0 to 32", quoted(&word.text));
            Fault::new(word.place, message)
        })
}

fn whole(options: &Options<'_>, name: &str, usual: u32) -> Parsed<u32> {
    let Some(given) = options.get(name) else {
        return Ok(usual);
    };
    let word = given.value();
    number(&word.text).ok_or_else(|| {
        let message = format!("{} is not {}", quoted(&word.text), given.spec.wants);
        Fault::new(word.place, message)
    })
}
