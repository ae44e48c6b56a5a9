//! `-m set`: whether addresses and ports are in a set of the companion file.

use policy::End;

use super::{Test, Tests};
use crate::error::{Fault, Parsed, did_you_mean_or, quoted};
use crate::option::{OptSpec, Options, tested};
use crate::value;

pub(super) const OPTIONS: &[OptSpec] = &[tested(
    &["--match-set"],
    "a set's name and src or dst for each of its parts, as in clients src or servers dst,dst",
)
.of(2)];

/// The most parts that an entry of a set has, as in ipset.
const MOST_PARTS: usize = 6;

/// What `-m set` asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MatchSet {
    /// The set's name.
    pub name: String,
    /// Whose address or port is looked up, for each part of an entry.
    pub by: Vec<End>,
}

pub(super) fn tests(options: &Options<'_>, tests: &mut Tests) -> Parsed<()> {
    let Some(given) = options.get("--match-set") else {
        return Ok(());
    };
    let name = value::set_name(given.value())?;
    let word = given.second();
    let ends = word.text.split(',').map(|end| match end {
        "src" => Ok(End::Source),
        "dst" => Ok(End::Destination),
        _ => {
            let cure = did_you_mean_or(end, ["src", "dst"], "write src or dst");
            let message = format!("{} is neither src nor dst{cure}", quoted(end));
            Err(Fault::new(word.place, message))
        }
    });
    let by: Vec<End> = ends.collect::<Parsed<_>>()?;
    if by.len() > MOST_PARTS {
        let message = format!("an entry of a set has at most {MOST_PARTS} parts");
        return Err(Fault::new(word.place, message));
    }
    tests.put(&given, Test::Set(Box::new(MatchSet { name, by })));
    Ok(())
}
