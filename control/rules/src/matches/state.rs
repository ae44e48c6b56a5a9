//! `-m conntrack --ctstate` and `-m state --state`.

use policy::{ConnState, StateSet};

use super::{Test, Tests};
use crate::error::{Fault, Parsed, did_you_mean_or, quoted};
use crate::lexer::Word;
use crate::option::{OptSpec, Options, tested};

const WANTS: &str = "a list of states, as in ESTABLISHED,RELATED";
pub(super) const CONNTRACK: &[OptSpec] = &[tested(&["--ctstate"], WANTS)];
pub(super) const STATE: &[OptSpec] = &[tested(&["--state"], WANTS)];

/// The states that both modules know, in the order of printing.
const STATES: [(&str, u16); 5] = [
    ("INVALID", 1 << ConnState::Invalid as u16),
    ("NEW", 1 << ConnState::New as u16),
    ("RELATED", 1 << ConnState::Related as u16),
    ("ESTABLISHED", 1 << ConnState::Established as u16),
    ("UNTRACKED", 1 << ConnState::Untracked as u16),
];
/// Those that only conntrack knows.
const TRANSLATED: [(&str, u16); 2] = [("SNAT", 1 << 8), ("DNAT", 1 << 9)];

pub(super) fn tests(options: &Options<'_>, tests: &mut Tests) -> Parsed<()> {
    if let Some(given) = options.get("--ctstate") {
        let states = states(given.value(), &TRANSLATED)?;
        tests.put(&given, Test::CtState(states));
    }
    if let Some(given) = options.get("--state") {
        tests.put(&given, Test::State(states(given.value(), &[])?));
    }
    Ok(())
}

fn states(word: &Word, more: &[(&str, u16)]) -> Parsed<StateSet> {
    let known = STATES.iter().chain(more);
    let bits = word.text.split(',').try_fold(0, |all, name| {
        let upper = name.to_ascii_uppercase();
        let found = known.clone().find(|(known, _)| *known == upper);
        found.map(|(_, bit)| all | bit).ok_or_else(|| {
            let names = known.clone().map(|(known, _)| *known);
            let list = names.clone().collect::<Vec<_>>().join(", ");
            let cure = did_you_mean_or(name, names, &format!("there are {list}"));
            Fault::new(word.place, format!("unknown state {}{cure}", quoted(name)))
        })
    })?;
    Ok(StateSet(bits))
}

/// The names of the states in a set.
pub(super) fn names(states: StateSet) -> String {
    let named = STATES.iter().chain(&TRANSLATED);
    let held = named.filter(|(_, bit)| states.0 & bit != 0);
    held.map(|(name, _)| *name).collect::<Vec<_>>().join(",")
}
