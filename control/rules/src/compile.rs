//! A ruleset to a policy: names become numbers.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use policy::{
    Action, ChainId, LocalPort, Policy, PortId, PortSet, Program, ProgramError, RuleId, Verdict,
};

use crate::error::{Fault, Parsed, RuleError, Warning, did_you_mean_or, quoted};
use crate::grammar;
use crate::model::{Match, Rule, Ruleset, Table, TableName, Target, Test};
use crate::place::{Place, Placed};

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

/// Makes the policy of a ruleset's `*tproxy` table; without the table it claims nothing.
///
/// A rule whose `-i` names none of the interfaces is kept and never matches; see
/// [`unmatched_interfaces`].
///
/// # Errors
/// If a jump leads nowhere or in a circle, chains nest too deep, or a packet could
/// meet too many rules. A ruleset from [`Ruleset::parse`] has none of this.
pub fn compile(
    ruleset: &Ruleset,
    interfaces: &[Interface],
    generation: u32,
) -> Result<Policy, RuleError> {
    let Some(table) = ruleset.table(TableName::Tproxy) else {
        return Ok(Policy::empty(generation));
    };
    let program =
        program(table, interfaces, generation).map_err(|fault| fault.error(&ruleset.file))?;
    Policy::new(program).map_err(|error| explained(&error, table).error(&ruleset.file))
}

/// Rules whose `-i` matches none of the interfaces.
#[must_use]
pub fn unmatched_interfaces(ruleset: &Ruleset, interfaces: &[Interface]) -> Vec<Warning> {
    let rules = ruleset.tables.iter().flat_map(|table| table.rules());
    let matches = rules.flat_map(|(_, _, _, rule)| &rule.value.matches);
    let unmatched = matches.filter_map(|found| match &found.test {
        Test::InInterface(pattern) if !interfaces.iter().any(|i| pattern.matches(&i.name)) => {
            let effect = if found.negated { "always" } else { "never" };
            let message = format!(
                "{} names no configured port, so this test {effect} holds",
                quoted(&pattern.to_string())
            );
            Some(Fault::new(found.place, message).warning(&ruleset.file))
        }
        _ => None,
    });
    unmatched.collect()
}

fn program(table: &Table, interfaces: &[Interface], generation: u32) -> Parsed<Program> {
    let numbers: HashMap<&str, ChainId> = table
        .chains
        .iter()
        .map(|chain| chain.name.as_str())
        .zip((0..).map(ChainId))
        .collect();
    let chains = table
        .chains
        .iter()
        .map(|chain| {
            chain
                .rules
                .iter()
                .map(|rule| lowered(rule, table, &numbers, interfaces))
                .collect()
        })
        .collect::<Parsed<_>>()?;
    let ports = interfaces
        .iter()
        .map(|i| LocalPort {
            port: i.port,
            first_address: i.first_address,
        })
        .collect();
    let fallthrough = table
        .chains
        .first()
        .and_then(|entry| entry.policy)
        .unwrap_or(Verdict::Accept);
    Ok(Program {
        generation,
        chains,
        fallthrough,
        ports,
    })
}

fn lowered(
    rule: &Rule,
    table: &Table,
    chains: &HashMap<&str, ChainId>,
    interfaces: &[Interface],
) -> Parsed<policy::Rule> {
    let mut lowered = policy::Rule::default();
    for Placed { value, place } in &rule.matches {
        apply(&mut lowered, value, *place, interfaces)?;
    }
    if let Some(target) = &rule.target {
        lowered.action = match &target.value {
            Target::Accept => Action::Accept,
            Target::Drop => Action::Drop,
            Target::Return => Action::Return,
            Target::Jump(name) => Action::Jump(callee(name, target.place, table, chains)?),
            Target::Tproxy { on_port, on_ip } => Action::Redirect {
                addr: *on_ip,
                port: on_port.map(Into::into),
            },
        };
    }
    Ok(lowered)
}

fn apply(
    rule: &mut policy::Rule,
    Match { negated, test }: &Match,
    place: Place,
    interfaces: &[Interface],
) -> Parsed<()> {
    match test {
        Test::Source(network) => put(&mut rule.source, *network, *negated, place),
        Test::Destination(network) => put(&mut rule.destination, *network, *negated, place),
        Test::Protocol(protocol) => put(&mut rule.proto, *protocol, *negated, place),
        Test::SourcePorts(range) => put(&mut rule.source_ports, *range, *negated, place),
        Test::DestinationPorts(range) => put(&mut rule.destination_ports, *range, *negated, place),
        Test::Comment(_) => Ok(()),
        Test::InInterface(pattern) => {
            let named: PortSet = interfaces
                .iter()
                .filter(|i| pattern.matches(&i.name))
                .map(|i| i.port)
                .collect();
            rule.in_ports = if *negated { named.complement() } else { named };
            Ok(())
        }
    }
}

/// One test per field: the parser gives no more, and a hand-made ruleset must not either.
fn put<T>(slot: &mut policy::Test<T>, value: T, negated: bool, place: Place) -> Parsed<()> {
    if !slot.is_any() {
        return Err(Fault::new(place, "this rule tests one field twice"));
    }
    *slot = if negated {
        policy::Test::Not(value)
    } else {
        policy::Test::Is(value)
    };
    Ok(())
}

fn callee(
    name: &str,
    place: Place,
    table: &Table,
    chains: &HashMap<&str, ChainId>,
) -> Parsed<ChainId> {
    if table.name.built_in_chains().contains(&name) {
        return Err(Fault::new(
            place,
            format!("{name} is a built-in chain; only chains of the user can be called"),
        ));
    }
    chains.get(name).copied().ok_or_else(|| {
        let known = table
            .chains
            .iter()
            .filter(|chain| chain.policy.is_none())
            .map(|chain| chain.name.as_str());
        let declare = format!(
            "declare a chain with a line `:{} - [0:0]`",
            quoted(name).trim_matches('`')
        );
        let near = did_you_mean_or(
            name,
            known.chain(grammar::TARGETS.iter().copied()),
            &declare,
        );
        Fault::new(
            place,
            format!("there is no target or chain {}{near}", quoted(name)),
        )
    })
}

/// A program's error in the words of the ruleset.
fn explained(error: &ProgramError, table: &Table) -> Fault {
    let place = |id: RuleId| {
        let found = table.rules().find(|(known, ..)| *known == id);
        found.map_or(
            table.chains.first().map(|chain| chain.place),
            |(_, _, _, rule)| {
                Some(
                    rule.target
                        .as_ref()
                        .map_or(rule.place, |target| target.place),
                )
            },
        )
    };
    let place = |id| place(id).unwrap_or_default();
    match error {
        ProgramError::Loop { jumps } => {
            let shown = jumps.get(..8).unwrap_or(jumps);
            let chain_of = |id: &RuleId| {
                table
                    .rules()
                    .find(|(known, ..)| known == id)
                    .map(|(_, chain, ..)| chain.name.as_str())
            };
            let mut circle: Vec<&str> = shown.iter().filter_map(chain_of).collect();
            circle.push(if jumps.len() > shown.len() {
                "..."
            } else {
                circle.first().copied().unwrap_or_default()
            });
            let last = jumps.last().copied().map(place).unwrap_or_default();
            Fault::new(
                last,
                format!(
                    "chains call each other in a circle: {}; remove one of the jumps",
                    circle.join(" -> ")
                ),
            )
        }
        ProgramError::TooDeep { rule } => {
            let message = format!(
                "chains call chains more than {} deep; flatten them",
                policy::MAX_NESTING
            );
            Fault::new(place(*rule), message)
        }
        ProgramError::TooLong => {
            let first = table
                .chains
                .first()
                .map(|chain| chain.place)
                .unwrap_or_default();
            let message = format!(
                "one packet could be held against more than {} rules; call chains less often",
                policy::MAX_STEPS
            );
            Fault::new(first, message)
        }
        ProgramError::NoSuchChain { rule } => {
            Fault::new(place(*rule), "this jump leads to no chain")
        }
    }
}
