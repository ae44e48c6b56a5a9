//! A ruleset to a policy.

use std::net::Ipv4Addr;
use std::sync::Arc;

use policy::capture::Node;
use policy::{
    ChainId, Entry, Hook, LocalPort, Policy, PortId, Program, ProgramError, RuleId, Zones,
};

use crate::calls::too_long;
use crate::caution::cautions;
use crate::error::{Fault, Parsed, RuleError, Warning, quoted};
use crate::lower::Lowering;
use crate::matches::Test;
use crate::model::Ruleset;
use crate::place::Place;
use crate::sets::Sets;

/// A configured port, as rules see it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// The name that `-i` matches.
    pub name: String,
    /// Its number.
    pub port: PortId,
    /// Where redirects without `--on-ip` go that come in by it.
    pub first_address: Option<Ipv4Addr>,
}

/// What the names in a ruleset mean.
#[derive(Clone, Copy)]
pub struct Environment<'a> {
    /// The configured ports.
    pub interfaces: &'a [Interface],
    /// The sets of the companion file.
    pub sets: &'a Sets,
    /// The zones of the configuration.
    pub zones: &'a Arc<Zones>,
    /// The number of the user with this name.
    pub user: &'a dyn Fn(&str) -> Option<u32>,
    /// The number of the group with this name.
    pub group: &'a dyn Fn(&str) -> Option<u32>,
}

/// A ruleset, ready to be asked.
#[derive(Debug)]
pub struct Compiled {
    /// What packets are held against.
    pub policy: Policy,
    /// What the box's own connections are held against when a program connects.
    pub capture: Vec<Node>,
    /// What has no effect yet, or another one than meant.
    pub warnings: Vec<Warning>,
}

/// Makes the policy of a ruleset.
///
/// A rule whose `-i` names none of the interfaces is kept and never matches; see
/// [`unmatched_interfaces`].
///
/// # Errors
/// If a rule names a set, zone, user or group that is not there, or if the rules ask for more than
/// a policy can hold.
pub fn compile(
    ruleset: &Ruleset,
    environment: &Environment<'_>,
    generation: u32,
) -> Result<Compiled, RuleError> {
    let error = |fault: Fault| fault.error(&ruleset.file);
    let program = program(ruleset, environment, generation).map_err(error)?;
    let capture = policy::capture::nodes(&program)
        .map_err(|refusal| error(Fault::new(place_of(ruleset, refusal.rule), refusal.what)))?;
    let policy = Policy::new(program).map_err(|why| error(explained(&why, ruleset)))?;
    let warnings = cautions(ruleset, environment.zones)
        .into_iter()
        .map(|fault| fault.warning(&ruleset.file))
        .collect();
    Ok(Compiled {
        policy,
        capture,
        warnings,
    })
}

/// Rules whose `-i` or `-o` matches none of the interfaces. `lo` is nobody's to configure.
#[must_use]
pub fn unmatched_interfaces(ruleset: &Ruleset, interfaces: &[Interface]) -> Vec<Warning> {
    let matches = ruleset
        .rules()
        .flat_map(|(_, _, _, _, rule)| &rule.value.matches);
    let unmatched = matches.filter_map(|found| {
        let (Test::InInterface(pattern) | Test::OutInterface(pattern)) = &found.test else {
            return None;
        };
        let is_there = |i: &Interface| pattern.matches(&i.name);
        if pattern.is_any() || pattern.name == "lo" || interfaces.iter().any(is_there) {
            return None;
        }
        let effect = if found.negated { "always" } else { "never" };
        let message = format!(
            "{} names no configured port, so this test {effect} holds",
            quoted(&pattern.to_string())
        );
        Some(Fault::new(found.place, message).warning(&ruleset.file))
    });
    unmatched.collect()
}

fn program(ruleset: &Ruleset, environment: &Environment<'_>, generation: u32) -> Parsed<Program> {
    let mut lowering = Lowering::new(environment);
    let mut chains = Vec::new();
    chains.resize_with(ruleset.all_chains().count(), Vec::new);
    // The tests of sockets' owners that packets are marked with come first.
    for is_tproxy in [false, true] {
        lowering.lower(ruleset, is_tproxy, &mut chains)?;
    }
    let ports = environment.interfaces.iter().map(|i| LocalPort {
        port: i.port,
        first_address: i.first_address,
    });
    Ok(Program {
        generation,
        chains,
        entries: entries(ruleset),
        ports: ports.collect(),
        sets: lowering.sets,
        owners: lowering.owners,
        zones: Arc::clone(environment.zones),
    })
}

/// The built-in chains, in the order of the text.
fn entries(ruleset: &Ruleset) -> Vec<Entry> {
    let chains = (0..).map(ChainId).zip(ruleset.all_chains());
    let built_in = chains.filter_map(|(id, (table, chain))| {
        let policy = chain.policy?;
        let is_it = |hook: &Hook| hook.table() == table.as_str() && hook.chain() == chain.name;
        let hook = Hook::ALL.into_iter().find(is_it)?;
        Some(Entry {
            hook,
            chain: id,
            policy,
        })
    });
    built_in.collect()
}

/// Where a rule's target stands, or the rule; the first chain for what is no rule.
fn place_of(ruleset: &Ruleset, id: RuleId) -> Place {
    let first = || ruleset.all_chains().next().map(|(_, chain)| chain.place);
    let rule = ruleset.rule(id).map(|(_, _, rule)| {
        let target = rule.target.as_ref();
        target.map_or(rule.place, |target| target.place)
    });
    rule.or_else(first).unwrap_or_default()
}

/// A program's error in the words of the ruleset. Parsing has seen to most of these; a ruleset
/// that was put together otherwise has not been parsed.
fn explained(error: &ProgramError, ruleset: &Ruleset) -> Fault {
    let at = |rule: &RuleId, message: String| Fault::new(place_of(ruleset, *rule), message);
    let first = || place_of(ruleset, RuleId(u32::MAX));
    match error {
        ProgramError::NoSuchChain { rule } => at(rule, "this jump leads to no chain".to_owned()),
        ProgramError::Loop { jumps } => {
            let last = jumps.last().copied().unwrap_or(RuleId(u32::MAX));
            let message = "chains call each other in a circle; remove one of the jumps";
            at(&last, message.to_owned())
        }
        ProgramError::TooDeep { rule } => {
            let most = policy::MAX_NESTING;
            at(
                rule,
                format!("chains call chains more than {most} deep; flatten them"),
            )
        }
        ProgramError::TooLong => too_long(first()),
        ProgramError::Misplaced { rule, hook } => {
            let (table, chain) = (hook.table(), hook.chain());
            at(
                rule,
                format!("this target has no place in {chain} of table {table}; remove it"),
            )
        }
        ProgramError::Owners { rule } | ProgramError::NoSuchTest { rule } => {
            at(rule, error.to_string())
        }
        ProgramError::TooManyPortSets
        | ProgramError::EntryTwice(_)
        | ProgramError::NoSuchEntry(_) => Fault::new(first(), error.to_string()),
    }
}
