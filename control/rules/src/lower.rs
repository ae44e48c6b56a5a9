//! Rules to what a policy holds: names become numbers.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use policy::{
    Action, ChainId, Condition, IpSet, MAX_OWNERS, OwnerTest, PortSet, Quality, SetId, Which,
    ZoneId,
};

use crate::compile::Environment;
use crate::error::{Fault, Parsed, did_you_mean_or, quoted};
use crate::matches::{HashLimit, IcmpType, Limit, MatchSet, MultiPorts, Test, Who};
use crate::model::{InterfacePattern, Match, Rule, Ruleset, TableName};
use crate::place::{Place, Placed};
use crate::targets::Target;

/// What rules have named so far.
pub(crate) struct Lowering<'a> {
    environment: &'a Environment<'a>,
    pub(crate) sets: Vec<IpSet>,
    set_ids: HashMap<&'a str, SetId>,
    pub(crate) owners: Vec<OwnerTest>,
    /// The tables of `-m hashlimit` and the lines that first name them.
    hash_limits: HashMap<&'a str, (&'a HashLimit, u32)>,
}

impl<'a> Lowering<'a> {
    pub(crate) fn new(environment: &'a Environment<'a>) -> Self {
        Self {
            environment,
            sets: Vec::new(),
            set_ids: HashMap::new(),
            owners: Vec::new(),
            hash_limits: HashMap::new(),
        }
    }

    /// Fills in the chains of table tproxy, or those of all others.
    pub(crate) fn lower(
        &mut self,
        ruleset: &'a Ruleset,
        is_tproxy: bool,
        chains: &mut [Vec<policy::Rule>],
    ) -> Parsed<()> {
        let mut slots = chains.iter_mut();
        let mut numbers = 0..;
        for table in &ruleset.tables {
            let ids: HashMap<&str, ChainId> = table
                .chains
                .iter()
                .map(|chain| chain.name.as_str())
                .zip(numbers.by_ref().map(ChainId))
                .collect();
            for (chain, slot) in table.chains.iter().zip(&mut slots) {
                if (table.name == TableName::Tproxy) == is_tproxy {
                    let rules = chain.rules.iter();
                    let lowered = rules.map(|rule| self.rule(rule, table.name, &ids));
                    *slot = lowered.collect::<Parsed<_>>()?;
                }
            }
        }
        Ok(())
    }

    fn rule(
        &mut self,
        rule: &'a Rule,
        table: TableName,
        chains: &HashMap<&str, ChainId>,
    ) -> Parsed<policy::Rule> {
        let mut lowered = policy::Rule::default();
        for Placed { value, place } in &rule.matches {
            self.apply(&mut lowered, value, *place, table)?;
        }
        if let Some(target) = &rule.target {
            lowered.action = action(&target.value, chains)
                .ok_or_else(|| Fault::new(target.place, "this jump leads to no chain"))?;
        }
        Ok(lowered)
    }

    fn apply(
        &mut self,
        rule: &mut policy::Rule,
        Match { negated, test }: &'a Match,
        place: Place,
        table: TableName,
    ) -> Parsed<()> {
        let negated = *negated;
        let quality = match test {
            Test::Source(network) => return put(&mut rule.source, *network, negated, place),
            Test::Destination(network) => {
                return put(&mut rule.destination, *network, negated, place);
            }
            Test::Protocol(protocol) => return put(&mut rule.proto, *protocol, negated, place),
            Test::InInterface(pattern) => {
                rule.in_ports = self.ports(pattern, negated);
                return Ok(());
            }
            Test::OutInterface(pattern) => {
                rule.out_ports = self.ports(pattern, negated);
                return Ok(());
            }
            Test::Comment(_) => return Ok(()),
            Test::SourcePorts(range) if rule.source_ports.is_any() => {
                return put(&mut rule.source_ports, *range, negated, place);
            }
            Test::DestinationPorts(range) if rule.destination_ports.is_any() => {
                return put(&mut rule.destination_ports, *range, negated, place);
            }
            Test::SourcePorts(range) => ports(Which::Source, vec![*range]),
            Test::DestinationPorts(range) => ports(Which::Destination, vec![*range]),
            Test::MultiPorts(MultiPorts { which, ranges }) => ports(*which, ranges.clone()),
            Test::Fragment => Quality::Tail,
            Test::TcpFlags { mask, set } => Quality::TcpFlags {
                mask: *mask,
                set: *set,
            },
            Test::Icmp(kind) => icmp(*kind),
            Test::SourceRange(first, last) => Quality::SourceRange(*first..=*last),
            Test::DestinationRange(first, last) => Quality::DestinationRange(*first..=*last),
            Test::CtState(states) | Test::State(states) => Quality::State(*states),
            Test::Tproxy => Quality::Tproxy,
            Test::Mark { value, mask } => Quality::Mark {
                value: *value,
                mask: *mask,
            },
            Test::Limit(limit) => Quality::Limit(rate(*limit)),
            Test::HashLimit(limit) => self.hash_limit(limit, place)?,
            Test::Set(set) => self.set(set, place)?,
            Test::Mac(mac) => Quality::Mac(*mac),
            Test::SourceZone(name) => Quality::SourceZone(self.zone(name, place)?),
            Test::DestinationZone(name) => Quality::DestinationZone(self.zone(name, place)?),
            Test::User(who) => {
                let uids = numbers(who, self.environment.user, "user", place)?;
                self.owner(OwnerTest { uids, gids: None }, table, place)?
            }
            Test::Group(who) => {
                let gids = Some(numbers(who, self.environment.group, "group", place)?);
                let uids = 0..=u32::MAX;
                self.owner(OwnerTest { uids, gids }, table, place)?
            }
            Test::SocketExists => {
                let uids = 0..=u32::MAX;
                self.owner(OwnerTest { uids, gids: None }, table, place)?
            }
        };
        rule.more.push(Condition {
            negated,
            test: quality,
        });
        Ok(())
    }

    /// Every port for `+`; else a port that is not known is none of those named.
    fn ports(&self, pattern: &InterfacePattern, negated: bool) -> PortSet {
        let interfaces = self.environment.interfaces.iter();
        let named = if pattern.is_any() {
            PortSet::ALL
        } else {
            interfaces
                .filter(|i| pattern.matches(&i.name))
                .map(|i| i.port)
                .collect()
        };
        if negated { named.complement() } else { named }
    }

    fn hash_limit(&mut self, limit: &'a HashLimit, place: Place) -> Parsed<Quality> {
        let (first, line) = *self
            .hash_limits
            .entry(&limit.name)
            .or_insert((limit, place.line));
        // Whether it holds above or up to the rate is each rule's own.
        let same = HashLimit {
            above: first.above,
            ..limit.clone()
        };
        if same != *first {
            let message = format!(
                "the table {} has other figures in line {line}; make them the same, or give this one another --hashlimit-name",
                quoted(&limit.name)
            );
            return Err(Fault::new(place, message));
        }
        Ok(Quality::HashLimit(policy::HashLimit {
            rate: rate(limit.limit),
            above: limit.above,
            by: limit.by.clone(),
            source_bits: limit.source_bits,
            destination_bits: limit.destination_bits,
            name: limit.name.clone(),
            most: limit.most,
            idle_ns: u64::from(limit.expire_ms).saturating_mul(1_000_000),
        }))
    }

    fn set(&mut self, wanted: &'a MatchSet, place: Place) -> Parsed<Quality> {
        let sets = self.environment.sets;
        let entries = sets.get(&wanted.name).ok_or_else(|| {
            let cure = "create it in the file of sets beside the ruleset";
            let mut names: Vec<&str> = sets.names().collect();
            names.sort_unstable();
            let cure = did_you_mean_or(&wanted.name, names, cure);
            let message = format!("there is no set {}{cure}", quoted(&wanted.name));
            Fault::new(place, message)
        })?;
        if wanted.by.len() != entries.dimensions() {
            let message = format!(
                "entries of the set {} have {} part{}; name src or dst for each",
                quoted(&wanted.name),
                entries.dimensions(),
                if entries.dimensions() == 1 { "" } else { "s" }
            );
            return Err(Fault::new(place, message));
        }
        let next = SetId(u32::try_from(self.sets.len()).unwrap_or(u32::MAX));
        let known = self.set_ids.get(wanted.name.as_str()).copied();
        if known.is_none() {
            self.sets.push(IpSet::new(entries.clone()));
            self.set_ids.insert(&wanted.name, next);
        }
        Ok(Quality::Set {
            set: known.unwrap_or(next),
            by: wanted.by.clone(),
        })
    }

    fn zone(&self, name: &str, place: Place) -> Parsed<ZoneId> {
        let zones = self.environment.zones;
        zones.zone_named(name).ok_or_else(|| {
            let cure = "write a section [zone.NAME] in the configuration";
            let cure = did_you_mean_or(name, zones.names().map(|(_, name)| name), cure);
            Fault::new(place, format!("there is no zone {}{cure}", quoted(name)))
        })
    }

    fn owner(&mut self, test: OwnerTest, table: TableName, place: Place) -> Parsed<Quality> {
        let known = self.owners.iter().position(|known| *known == test);
        let index = known.unwrap_or(self.owners.len());
        let most = if table == TableName::Tproxy {
            usize::from(u8::MAX)
        } else {
            MAX_OWNERS
        };
        let number = u8::try_from(index).ok().filter(|_| index < most);
        let number = number.ok_or_else(|| {
            let message = format!(
                "more than {most} different tests of sockets' owners; join users to ranges, as in --uid-owner 1000-1999"
            );
            Fault::new(place, message)
        })?;
        if known.is_none() {
            self.owners.push(test);
        }
        Ok(Quality::Owner(number))
    }
}

/// What a target does; none if it jumps to no chain.
fn action(target: &Target, chains: &HashMap<&str, ChainId>) -> Option<Action> {
    Some(match target {
        Target::Accept => Action::Accept,
        Target::Drop => Action::Drop,
        Target::Return => Action::Return,
        Target::Jump(name) => Action::Jump(*chains.get(name.as_str())?),
        Target::Goto(name) => Action::Goto(*chains.get(name.as_str())?),
        Target::Reject(with) => Action::Reject(*with),
        Target::Log(_) => Action::Log,
        Target::Mark { value, mask } => Action::Mark {
            and: !mask,
            xor: *value,
        },
        Target::NoTrack => Action::NoTrack,
        Target::Tproxy {
            on_port,
            on_ip,
            otherwise,
            mark: _,
        } => Action::Redirect {
            addr: *on_ip,
            port: on_port.map(Into::into),
            otherwise: *otherwise,
        },
        Target::Snat(_)
        | Target::Dnat(_)
        | Target::Masquerade(_)
        | Target::Redirect(_)
        | Target::Netmap(_) => Action::Nat,
    })
}

const fn ports(which: Which, ranges: Vec<policy::PortRange>) -> Quality {
    Quality::Ports { which, ranges }
}

fn icmp(kind: IcmpType) -> Quality {
    let (kind, codes) = match kind {
        // The policy's word for all types, as it is the kernel's.
        IcmpType::Any => (u8::MAX, 0..=u8::MAX),
        IcmpType::Of { kind, code: None } => (kind, 0..=u8::MAX),
        IcmpType::Of {
            kind,
            code: Some(code),
        } => (kind, code..=code),
    };
    Quality::Icmp { kind, codes }
}

fn rate(limit: Limit) -> policy::Rate {
    policy::Rate {
        tokens: limit.times,
        per_ns: u64::from(limit.period.seconds()) * 1_000_000_000,
        burst: limit.burst,
    }
}

fn numbers(
    who: &Who,
    lookup: &dyn Fn(&str) -> Option<u32>,
    what: &str,
    place: Place,
) -> Parsed<RangeInclusive<u32>> {
    match who {
        Who::Numbers(first, last) => Ok(*first..=*last),
        Who::Name(name) => lookup(name).map(|id| id..=id).ok_or_else(|| {
            let message = format!(
                "there is no {what} {}; create it, or write its number",
                quoted(name)
            );
            Fault::new(place, message)
        }),
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
