//! Which chain calls which, checked when a table ends: every jump lands, no chain calls itself,
//! nesting and work are bounded, and each rule can stand where packets come by.

use std::collections::HashMap;

use crate::error::{Fault, Parsed, did_you_mean_or, quoted};
use crate::fitness;
use crate::model::{Chain, Table};
use crate::place::{Place, Placed};
use crate::targets::{Kind, Target};

/// A jump from one chain to another, by their indexes.
#[derive(Clone, Copy)]
struct Call {
    place: Place,
    callee: usize,
}

/// The chain that a rule calls.
pub(crate) fn callee(target: &Target) -> Option<&str> {
    match target {
        Target::Jump(name) | Target::Goto(name) => Some(name),
        _ => None,
    }
}

/// Checks a table whose lines have all been read.
pub(crate) fn check(table: &Placed<Table>) -> Parsed<()> {
    let calls = calls(table)?;
    let order = callees_first(table, &calls)?;
    bounded(table, &calls, &order)?;
    let reached = reached(table, &calls, &order);
    for (chain, hooks) in table.chains.iter().zip(reached) {
        let built_in = table.name.built_in_chains().iter().enumerate();
        let hooks: Vec<&str> = built_in
            .filter(|(bit, _)| hooks & 1u8 << bit != 0)
            .map(|(_, name)| *name)
            .collect();
        fitness::check(table.name, &chain.value, &hooks)?;
    }
    Ok(())
}

/// The calls of every chain.
fn calls(table: &Table) -> Parsed<Vec<Vec<Call>>> {
    let names = table.chains.iter().map(|chain| chain.name.as_str());
    let indexes: HashMap<&str, usize> = names.zip(0..).collect();
    let of = |chain: &Placed<Chain>| {
        let targets = chain.rules.iter().filter_map(|rule| rule.target.as_ref());
        let jumps = targets.filter_map(|target| callee(target).map(|name| (target, name)));
        jumps
            .map(|(target, name)| {
                let callee = indexes.get(name).copied();
                Ok(Call {
                    place: target.place,
                    callee: callee
                        .filter(|index| *index >= table.name.built_in_chains().len())
                        .ok_or_else(|| no_chain(table, name, target.place))?,
                })
            })
            .collect::<Parsed<_>>()
    };
    table.chains.iter().map(of).collect()
}

fn no_chain(table: &Table, name: &str, place: Place) -> Fault {
    if table.name.built_in_chains().contains(&name) {
        let message = format!("{name} is a built-in chain; only chains of the user can be called");
        return Fault::new(place, message);
    }
    let chains = table.chains.iter().filter(|chain| chain.policy.is_none());
    let known = chains.map(|chain| chain.name.as_str());
    let known = known.chain(Kind::NAMED.iter().map(|(name, _)| *name));
    let shown = quoted(name);
    let declare = format!(
        "declare a chain with a line `:{} - [0:0]`",
        shown.trim_matches('`')
    );
    let near = did_you_mean_or(name, known, &declare);
    Fault::new(place, format!("there is no target or chain {shown}{near}"))
}

/// The chains in an order in which each comes after all that it calls.
fn callees_first(table: &Table, calls: &[Vec<Call>]) -> Parsed<Vec<usize>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        Not,
        Open,
        Done,
    }
    let mut seen = vec![Seen::Not; calls.len()];
    let mut order = Vec::with_capacity(calls.len());
    for root in 0..calls.len() {
        // Each open chain, and how many of its calls have been followed.
        let mut open: Vec<(usize, usize)> = Vec::new();
        if seen.get(root) == Some(&Seen::Not) {
            open.push((root, 0));
        }
        while let Some((chain, followed)) = open.last_mut() {
            let (chain, next) = (*chain, *followed);
            *followed += 1;
            let call = calls.get(chain).and_then(|calls| calls.get(next)).copied();
            let mut mark = |chain: usize, state| {
                if let Some(slot) = seen.get_mut(chain) {
                    *slot = state;
                }
            };
            let Some(call) = call else {
                mark(chain, Seen::Done);
                order.push(chain);
                open.pop();
                continue;
            };
            mark(chain, Seen::Open);
            match seen.get(call.callee) {
                Some(Seen::Not) => open.push((call.callee, 0)),
                Some(Seen::Open) => return Err(circle(table, &open, call)),
                Some(Seen::Done) | None => {}
            }
        }
    }
    Ok(order)
}

/// The chains that have called each other, until one calls an earlier one again.
fn circle(table: &Table, open: &[(usize, usize)], last: Call) -> Fault {
    const SHOWN: usize = 8;
    let circle = open.iter().skip_while(|(chain, _)| *chain != last.callee);
    let name = |chain: usize| table.chains.get(chain).map(|chain| chain.name.as_str());
    let all: Vec<&str> = circle.filter_map(|(chain, _)| name(*chain)).collect();
    let mut shown: Vec<&str> = all.iter().take(SHOWN).copied().collect();
    shown.push(if all.len() > SHOWN {
        "..."
    } else {
        all.first().copied().unwrap_or_default()
    });
    let message = format!(
        "chains call each other in a circle: {}; remove one of the jumps",
        shown.join(" -> ")
    );
    Fault::new(last.place, message)
}

/// How deep a chain's calls nest, and against how many rules it can hold a packet.
#[derive(Clone, Copy, Default)]
struct Cost {
    depth: usize,
    steps: u64,
}

fn bounded(table: &Placed<Table>, calls: &[Vec<Call>], order: &[usize]) -> Parsed<()> {
    let mut costs = vec![Cost::default(); calls.len()];
    for &chain in order {
        let rules = table.chains.get(chain).map_or(0, |chain| chain.rules.len());
        let mut cost = Cost {
            depth: 0,
            steps: u64::try_from(rules).unwrap_or(u64::MAX),
        };
        for call in calls.get(chain).into_iter().flatten() {
            let below = costs.get(call.callee).copied().unwrap_or_default();
            cost.steps = cost.steps.saturating_add(below.steps);
            cost.depth = cost.depth.max(below.depth + 1);
            if cost.depth > policy::MAX_NESTING {
                let message = format!(
                    "chains call chains more than {} deep; flatten them",
                    policy::MAX_NESTING
                );
                return Err(Fault::new(call.place, message));
            }
        }
        if cost.steps > policy::MAX_STEPS {
            return Err(too_long(
                table.chains.get(chain).map_or(table.place, |c| c.place),
            ));
        }
        if let Some(slot) = costs.get_mut(chain) {
            *slot = cost;
        }
    }
    Ok(())
}

/// A packet could meet too many rules.
pub(crate) fn too_long(place: Place) -> Fault {
    let message = format!(
        "one packet could be held against more than {} rules; call chains less often",
        policy::MAX_STEPS
    );
    Fault::new(place, message)
}

/// From which built-in chains each chain is reached, a bit for each.
fn reached(table: &Table, calls: &[Vec<Call>], order: &[usize]) -> Vec<u8> {
    let built_in = table.name.built_in_chains().len();
    let mut reached: Vec<u8> = (0..calls.len())
        .map(|chain| if chain < built_in { 1u8 << chain } else { 0 })
        .collect();
    for &chain in order.iter().rev() {
        let from = reached.get(chain).copied().unwrap_or_default();
        for call in calls.get(chain).into_iter().flatten() {
            if let Some(slot) = reached.get_mut(call.callee) {
                *slot |= from;
            }
        }
    }
    reached
}
