//! What a rule asks, in the words of a connection that is just being opened: its destination, the mark and the
//! owner of its socket. It is TCP and new; of its source nothing is known yet.

use std::net::Ipv4Addr;

use wire::{Endpoint, Protocol, Tuple};

use super::{MAX_NODES, Question};
use crate::{
    ConnState, End, IpSet, Network, Packet, PortId, PortRange, Program, Quality, Rule, StateSet,
    Test, WIDEST, Which, ZoneId,
};

/// The flags of a segment that opens a connection.
const SYN: u8 = 2;

/// One condition of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Clause {
    /// It always holds.
    Always,
    /// It never holds.
    Never,
    /// It holds if all questions of one of the alternatives are answered by yes, or, if negated, of none.
    /// There is at least one, and each asks something.
    Asked {
        alternatives: Vec<Vec<Question>>,
        negated: bool,
    },
}

impl Clause {
    const fn known(holds: bool) -> Self {
        if holds { Self::Always } else { Self::Never }
    }

    fn of(alternatives: Vec<Vec<Question>>, negated: bool) -> Self {
        if alternatives.is_empty() {
            return Self::known(negated);
        }
        if alternatives.iter().any(Vec::is_empty) {
            return Self::known(!negated);
        }
        Self::Asked {
            alternatives,
            negated,
        }
    }

    fn one(question: Question, negated: bool) -> Self {
        Self::of(vec![vec![question]], negated)
    }
}

/// The conditions of a rule, or what is wrong with one of them.
pub(super) fn clauses(program: &Program, rule: &Rule) -> Result<Vec<Clause>, String> {
    let mut clauses = vec![
        Clause::known(rule.proto.holds(|p| *p == Protocol::TCP)),
        Clause::known(rule.in_ports.has(None)),
        test(&rule.destination, network),
        test(&rule.destination_ports, port_range),
    ];
    // A rule that is never met may ask what it likes.
    let mut is_never = clauses.contains(&Clause::Never);
    let mut wrong = None;
    for condition in &rule.more {
        match quality(program, &condition.test, condition.negated) {
            Ok(clause) => {
                is_never |= clause == Clause::Never;
                clauses.push(clause);
            }
            Err(what) => wrong = wrong.or(Some(what)),
        }
    }
    if is_never {
        return Ok(vec![Clause::Never]);
    }
    if !rule.out_ports.has(None) {
        return Err("the interface that a connection will leave by is not known when it is opened; ask for its destination (-d)".to_owned());
    }
    let source = test(&rule.source, network);
    for asked in [source, test(&rule.source_ports, port_range)] {
        match asked {
            Clause::Always => {}
            Clause::Never => return Ok(vec![asked]),
            Clause::Asked { .. } => return Err(no_source()),
        }
    }
    wrong.map_or(Ok(clauses), Err)
}

fn no_source() -> String {
    "a connection has no source when it is opened, neither address nor port; ask for its owner (-m owner) or its destination".to_owned()
}

/// None if everything is in it.
fn network(network: &Network) -> Option<Question> {
    (network.mask().to_bits() != 0).then_some(Question::Network(*network))
}

fn port_range(range: &PortRange) -> Option<Question> {
    (*range != WIDEST).then(|| Question::Ports((*range).into()))
}

/// `ask` gives none for what everything is in.
fn test<T>(test: &Test<T>, ask: impl Fn(&T) -> Option<Question>) -> Clause {
    let (value, negated) = match test {
        Test::Any => return Clause::Always,
        Test::Is(value) => (value, false),
        Test::Not(value) => (value, true),
    };
    match ask(value) {
        Some(question) => Clause::one(question, negated),
        None => Clause::known(!negated),
    }
}

fn quality(program: &Program, quality: &Quality, negated: bool) -> Result<Clause, String> {
    let known = |holds: bool| Clause::known(holds != negated);
    Ok(match quality {
        Quality::Tail | Quality::Tproxy => known(false),
        Quality::TcpFlags { mask, set } => known(SYN & mask == *set),
        // What cannot be asked of it fails either way.
        Quality::Icmp { .. } | Quality::Mac(_) => Clause::Never,
        Quality::State(states) => known(states.meets(StateSet::of(ConnState::New))),
        Quality::Ports {
            which: Which::Destination,
            ranges,
        } => Clause::of(
            ranges
                .iter()
                .map(|range| port_range(range).into_iter().collect())
                .collect(),
            negated,
        ),
        Quality::DestinationRange(range) => Clause::one(Question::Range(range.clone()), negated),
        Quality::Mark { value, mask } => {
            let (value, mask) = (*value, *mask);
            Clause::one(Question::Mark { value, mask }, negated)
        }
        Quality::Set { set, by } => match program.sets.get(set.0 as usize) {
            Some(set) => Clause::of(in_set(set, by)?, negated),
            None => Clause::Never,
        },
        Quality::DestinationZone(zone) => Clause::of(in_zone(program, *zone), negated),
        Quality::Owner(owner) => match program.owners.get(usize::from(*owner)) {
            Some(test) => {
                // Even if it asks for all users: the kernel's own sockets have none.
                let users = Question::Users(test.uids.clone());
                let groups = test.gids.clone().map(Question::Groups);
                Clause::of(vec![[users].into_iter().chain(groups).collect()], negated)
            }
            None => Clause::Never,
        },
        Quality::Ports {
            which: Which::Source | Which::Either,
            ..
        }
        | Quality::SourceRange(_)
        | Quality::SourceZone(_) => return Err(no_source()),
        Quality::Limit(_) | Quality::HashLimit(_) => {
            return Err(
                "connections are not limited when they are opened; limit them in filter OUTPUT"
                    .to_owned(),
            );
        }
    })
}

/// A connection to there, as sets and zones are asked.
fn connection(addr: u32, port: u16) -> Packet {
    let tuple = Tuple {
        proto: Protocol::TCP,
        src: Endpoint::new(Ipv4Addr::UNSPECIFIED, 0),
        dst: Endpoint::new(Ipv4Addr::from_bits(addr), port),
    };
    Packet::first(PortId(0), tuple)
}

fn in_set(set: &IpSet, by: &[End]) -> Result<Vec<Vec<Question>>, String> {
    let dimensions = set.dimensions();
    let Some(by) = by.get(..dimensions) else {
        return Ok(Vec::new());
    };
    if by.contains(&End::Source) {
        return Err(no_source());
    }
    let mut alternatives: Vec<Vec<Question>> = Vec::new();
    for (port, edges) in set.tcp_edges() {
        let found = stretches(edges, |addr| {
            set.contains(by, &connection(addr, port.unwrap_or(0)))
        });
        for range in found {
            let mut questions = Vec::new();
            questions.extend(port.map(|port| Question::Ports(port..=port)));
            if range != (Ipv4Addr::UNSPECIFIED..=Ipv4Addr::BROADCAST) {
                questions.push(Question::Range(range));
            }
            // Ports next to each other, as sets of ports have them.
            if let ([Question::Ports(last)], Some([Question::Ports(before)])) = (
                questions.as_slice(),
                alternatives.last_mut().map(Vec::as_mut_slice),
            ) && before.end().checked_add(1) == Some(*last.start())
            {
                *before = *before.start()..=*last.end();
                continue;
            }
            alternatives.push(questions);
        }
        if alternatives.len() > MAX_NODES {
            return Err(format!(
                "the set has more than {MAX_NODES} entries, too many for tproxy OUTPUT"
            ));
        }
    }
    Ok(alternatives)
}

fn in_zone(program: &Program, zone: ZoneId) -> Vec<Vec<Question>> {
    let zones = &program.zones;
    let is_within = |addr| {
        let of = zones.zone_of(Ipv4Addr::from_bits(addr), None);
        of.is_some_and(|of| zones.is_within(of, zone))
    };
    stretches(zones.edges(), is_within)
        .into_iter()
        .map(|range| vec![Question::Range(range)])
        .collect()
}

/// The addresses that belong, if that can change at the edges only.
fn stretches(
    mut edges: Vec<u32>,
    belongs: impl Fn(u32) -> bool,
) -> Vec<std::ops::RangeInclusive<Ipv4Addr>> {
    edges.push(0);
    edges.sort_unstable();
    edges.dedup();
    let ends = edges.iter().skip(1).map(|next| next - 1).chain([u32::MAX]);
    let mut found: Vec<(u32, u32)> = Vec::new();
    for (first, last) in edges.iter().copied().zip(ends) {
        if !belongs(first) {
            continue;
        }
        match found.last_mut() {
            Some((_, before)) if before.checked_add(1) == Some(first) => *before = last,
            _ => found.push((first, last)),
        }
    }
    found
        .into_iter()
        .map(|(first, last)| Ipv4Addr::from_bits(first)..=Ipv4Addr::from_bits(last))
        .collect()
}
