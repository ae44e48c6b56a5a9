//! What a ruleset says that has no effect yet, or another one than meant.

use std::collections::{HashMap, HashSet};

use policy::{Verdict, Zones};

use crate::calls::callee;
use crate::error::{Fault, quoted};
use crate::matches::Test;
use crate::model::{Chain, Match, Rule, Ruleset, Table, TableName};
use crate::place::{Place, Placed};
use crate::targets::Target;

/// One fault for each kind, where it shows first.
pub(crate) fn cautions(ruleset: &Ruleset, zones: &Zones) -> Vec<Fault> {
    let mut faults = vec![nat(ruleset), fragments(ruleset)];
    if let Some(filter) = ruleset.table(TableName::Filter) {
        faults.push(forwards(filter).map(|place| {
            let message = "FORWARD lets packets go on, but none is forwarded yet: they are dropped and counted as not_forwarded";
            Fault::new(place, message)
        }));
    }
    for table in &ruleset.tables {
        faults.push(way_out(table));
    }
    faults.push(connects(ruleset));
    let mut faults: Vec<Fault> = faults.into_iter().flatten().collect();
    faults.extend(zones_without_networks(ruleset, zones));
    faults
}

fn rules(ruleset: &Ruleset) -> impl Iterator<Item = &Placed<Rule>> {
    ruleset.rules().map(|(.., rule)| rule)
}

fn nat(ruleset: &Ruleset) -> Option<Fault> {
    let targets = rules(ruleset).filter_map(|rule| rule.target.as_ref());
    let mut nat = targets.filter(|target| {
        matches!(
            target.value,
            Target::Snat(_)
                | Target::Dnat(_)
                | Target::Masquerade(_)
                | Target::Redirect(_)
                | Target::Netmap(_)
        )
    });
    let first = nat.next()?;
    let message = format!(
        "{} is not translated yet: what it takes is dropped and counted as not_translated{}",
        first.value.name(),
        and_more(nat.count())
    );
    Some(Fault::new(first.place, message))
}

fn fragments(ruleset: &Ruleset) -> Option<Fault> {
    let matches = rules(ruleset).flat_map(|rule| &rule.value.matches);
    let mut found = matches.filter(|found| found.test == Test::Fragment);
    let first = found.next()?;
    let message = format!(
        "-f sees only fragments in transit: those for this box are put together by the kernel, which asks no rule about them{}",
        and_more(found.count())
    );
    Some(Fault::new(first.place, message))
}

/// Zones as destinations that have only interfaces: those tell where a packet comes from.
fn zones_without_networks(ruleset: &Ruleset, zones: &Zones) -> Vec<Fault> {
    let mut told = HashSet::new();
    let mut faults = Vec::new();
    for found in rules(ruleset).flat_map(|rule| &rule.value.matches) {
        let Test::DestinationZone(name) = &found.test else {
            continue;
        };
        let is_empty = |zone| !zones.has_networks(zone);
        if told.insert((name, found.negated)) && zones.zone_named(name).is_some_and(is_empty) {
            let what = if found.negated {
                "`! --dst` always"
            } else {
                "`--dst` never"
            };
            let message = format!(
                "zone {} has no networks, nor has a zone below it, so {what} holds: its interfaces tell only where packets come from; write networks in its section",
                quoted(name)
            );
            faults.push(Fault::new(found.place, message));
        }
    }
    faults
}

/// Where tproxy OUTPUT drops without asking for a protocol: it sees no other than TCP.
fn connects(ruleset: &Ruleset) -> Option<Fault> {
    let table = ruleset.table(TableName::Tproxy)?;
    let is_of_any = |rule: &Rule| {
        let is_protocol = |found: &Placed<Match>| matches!(found.test, Test::Protocol(_));
        !rule.matches.iter().any(is_protocol)
    };
    let reached = reached_by(table, "OUTPUT", is_of_any);
    let rules = reached.iter().flat_map(|chain| &chain.rules);
    let targets = rules
        .filter(|rule| is_of_any(rule))
        .filter_map(|rule| rule.target.as_ref());
    let mut drops = targets.filter(|target| target.value == Target::Drop);
    let sees = "OUTPUT of table tproxy sees TCP connections only, so this drops nothing else";
    if let Some(first) = drops.next() {
        let message = format!(
            "{sees}; write -p tcp if that is meant, or drop the rest in OUTPUT of table filter{}",
            and_more(drops.count())
        );
        return Some(Fault::new(first.place, message));
    }
    let mut chains = table.chains.iter();
    let output = chains.find(|chain| chain.name == "OUTPUT")?;
    (output.policy == Some(Verdict::Drop)).then(|| {
        let message = format!("{sees}; drop the rest in OUTPUT of table filter");
        Fault::new(output.place, message)
    })
}

fn and_more(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => " (one more rule like this follows)".to_owned(),
        _ => format!(" ({count} more rules like this follow)"),
    }
}

/// `-o` where the way out is not known yet.
fn way_out(table: &Table) -> Option<Fault> {
    let reached = reached(table, "FORWARD");
    let rules = reached.iter().flat_map(|chain| &chain.rules);
    let mut found = rules
        .flat_map(|rule| &rule.value.matches)
        .filter(|found| matches!(&found.test, Test::OutInterface(pattern) if !pattern.is_any()));
    let first = found.next()?;
    let message = format!(
        "the way out of transit is not known yet, so -o never holds in FORWARD{}",
        and_more(found.count())
    );
    Some(Fault::new(first.place, message))
}

/// The chains that packets of this built-in chain come to.
fn reached<'a>(table: &'a Table, from: &str) -> Vec<&'a Chain> {
    reached_by(table, from, |_| true)
}

/// Those that they come to by rules of a kind.
fn reached_by<'a>(table: &'a Table, from: &str, by: impl Fn(&Rule) -> bool) -> Vec<&'a Chain> {
    let chains = table
        .chains
        .iter()
        .map(|chain| (chain.name.as_str(), &chain.value));
    let mut left: HashMap<&str, &Chain> = chains.collect();
    let mut found: Vec<&Chain> = left.remove(from).into_iter().collect();
    let mut next = 0;
    while let Some(chain) = found.get(next).copied() {
        next += 1;
        let rules = chain.rules.iter().filter(|rule| by(rule));
        let targets = rules.filter_map(|rule| rule.target.as_ref());
        let names = targets.filter_map(|target| callee(target));
        found.extend(names.filter_map(|name| left.remove(name)));
    }
    found
}

/// Where FORWARD first lets a packet go, as far as can be seen without asking matches.
fn forwards(filter: &Table) -> Option<Place> {
    let reached = reached(filter, "FORWARD");
    let by_name: HashMap<&str, &Chain> = reached
        .iter()
        .map(|chain| (chain.name.as_str(), *chain))
        .collect();
    let mut known = HashMap::new();
    let forward = reached.first()?;
    // Callees first: a chain is looked at when all that it calls are known, and no chain calls
    // itself.
    let mut open = vec![*forward];
    while let Some(chain) = open.last().copied() {
        let unknown = chain.rules.iter().find_map(|rule| {
            let name = callee(rule.target.as_deref()?)?;
            (!known.contains_key(name)).then(|| by_name.get(name).copied())?
        });
        match unknown {
            Some(callee) => open.push(callee),
            None => {
                known.insert(chain.name.as_str(), passage(chain, &known));
                open.pop();
            }
        }
    }
    let passage = known.get("FORWARD")?;
    let by_policy = || {
        let placed = filter.chains.iter().find(|chain| chain.name == "FORWARD")?;
        let goes = passage.comes_through && placed.policy == Some(Verdict::Accept);
        goes.then_some(placed.place)
    };
    passage.accepts.or_else(by_policy)
}

/// What a chain does with packets.
#[derive(Clone, Copy, Debug)]
struct Passage {
    /// Where it first accepts any.
    accepts: Option<Place>,
    /// Whether any come to its end, or return.
    comes_through: bool,
}

fn passage(chain: &Chain, known: &HashMap<&str, Passage>) -> Passage {
    let mut passage = Passage {
        accepts: None,
        comes_through: false,
    };
    for rule in &chain.rules {
        let Some(target) = &rule.target else { continue };
        let is_comment = |test: &Test| matches!(test, Test::Comment(_));
        let takes_all = rule.matches.iter().all(|found| is_comment(&found.test));
        let ends = match &target.value {
            Target::Accept => {
                passage.accepts = passage.accepts.or(Some(target.place));
                true
            }
            Target::Drop | Target::Reject(_) => true,
            Target::Return => {
                passage.comes_through = true;
                true
            }
            Target::Jump(name) | Target::Goto(name) => {
                let below = known.get(name.as_str()).copied();
                passage.accepts = passage.accepts.or(below.and_then(|below| below.accepts));
                let back = below.is_none_or(|below| below.comes_through);
                let is_goto = matches!(target.value, Target::Goto(_));
                passage.comes_through |= is_goto && back;
                is_goto || !back
            }
            _ => false,
        };
        if ends && takes_all {
            return passage;
        }
    }
    passage.comes_through = true;
    passage
}
