//! What a policy is made from, and the check that makes deciding safe: every jump
//! lands, no chain calls itself, nesting and steps are bounded.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use wire::Protocol;

use crate::{Network, Policy, PortId, PortRange, PortSet, RuleId, Test};

/// How deep chains may call chains: the size of the walk's return stack.
pub const MAX_NESTING: usize = 64;

/// How many rules one packet may be held against at worst. Chains that call others
/// twice double the work per level, so a short text could ask for years.
pub const MAX_STEPS: u64 = 1 << 20;

/// Index of a chain in its program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ChainId(pub u32);

/// What becomes of a packet that no rule decided about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Verdict {
    /// No rule claims it.
    #[default]
    Accept,
    /// It is dropped.
    Drop,
}

/// What a rule that matches does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Action {
    /// Nothing: the rule only counts.
    #[default]
    Count,
    /// Calls a chain.
    Jump(ChainId),
    /// Goes back to the calling chain; in the entry chain, to the program's verdict.
    Return,
    /// Ends the walk: unclaimed.
    Accept,
    /// Ends the walk: dropped.
    Drop,
    /// Ends the walk: to a local endpoint.
    Redirect {
        /// The address; none for the first address of the ingress port.
        addr: Option<Ipv4Addr>,
        /// The port; none to keep the packet's destination port.
        port: Option<u16>,
    },
}

/// One rule: tests that must all hold, and an action.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The ports that the packet may come in by.
    pub in_ports: PortSet,
    /// The protocol.
    pub proto: Test<Protocol>,
    /// The source address.
    pub source: Test<Network>,
    /// The destination address.
    pub destination: Test<Network>,
    /// The source port.
    pub source_ports: Test<PortRange>,
    /// The destination port.
    pub destination_ports: Test<PortRange>,
    /// What to do.
    pub action: Action,
}

impl Default for Rule {
    /// A rule that matches everything and only counts.
    fn default() -> Self {
        Self {
            in_ports: PortSet::ALL,
            proto: Test::Any,
            source: Test::Any,
            destination: Test::Any,
            source_ports: Test::Any,
            destination_ports: Test::Any,
            action: Action::Count,
        }
    }
}

/// A port and the address that redirects without one of their own go to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LocalPort {
    /// The port.
    pub port: PortId,
    /// The first address of its interface, if it has one.
    pub first_address: Option<Ipv4Addr>,
}

/// Rules as their compiler hands them over.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Program {
    /// The number of this policy; the maker counts it up.
    pub generation: u32,
    /// The chains; a packet enters at the first. [`RuleId`]s count through them in this order.
    pub chains: Vec<Vec<Rule>>,
    /// What becomes of a packet that leaves the first chain at its end.
    pub fallthrough: Verdict,
    /// The ports of the configuration.
    pub ports: Vec<LocalPort>,
}

/// Why a program is no policy.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProgramError {
    /// A rule jumps to a chain that the program does not have.
    #[error("rule {} jumps to a chain that does not exist", .rule.0)]
    NoSuchChain {
        /// The rule that jumps.
        rule: RuleId,
    },
    /// Chains call each other in a circle.
    #[error("chains call each other in a circle of {} jumps", .jumps.len())]
    Loop {
        /// The jumps of the circle, in order.
        jumps: Vec<RuleId>,
    },
    /// Chains nest deeper than [`MAX_NESTING`].
    #[error("chains call chains more than {MAX_NESTING} deep")]
    TooDeep {
        /// The jump that goes too deep.
        rule: RuleId,
    },
    /// One packet could be held against more than [`MAX_STEPS`] rules.
    #[error("one packet could be held against more than {MAX_STEPS} rules")]
    TooLong,
}

/// Where a chain lies in the flat list of rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Policy {
    /// Checks and flattens a program.
    ///
    /// # Errors
    /// If the program breaks one of the bounds that deciding relies on.
    pub fn new(program: Program) -> Result<Self, ProgramError> {
        let mut chains = Vec::with_capacity(program.chains.len());
        let mut start = 0u32;
        for chain in &program.chains {
            // The steps of the entry chain alone would exceed the bound long before.
            let length = u32::try_from(chain.len()).map_err(|_| ProgramError::TooLong)?;
            let end = start.checked_add(length).ok_or(ProgramError::TooLong)?;
            chains.push(Span { start, end });
            start = end;
        }
        let policy = Self {
            generation: program.generation,
            rules: program.chains.into_iter().flatten().collect(),
            chains: chains.into(),
            fallthrough: program.fallthrough,
            first_addresses: first_addresses(&program.ports),
            ports: program.ports.into(),
        };
        policy.check()?;
        Ok(policy)
    }

    /// The policy of no rules: it claims nothing.
    #[must_use]
    pub fn empty(generation: u32) -> Self {
        Self {
            generation,
            rules: Box::default(),
            chains: Box::default(),
            fallthrough: Verdict::Accept,
            ports: Box::default(),
            first_addresses: Box::default(),
        }
    }

    pub(crate) fn chain(&self, id: ChainId) -> Option<Span> {
        self.chains.get(usize::try_from(id.0).ok()?).copied()
    }

    /// The rules of a stretch of the list, each with its number.
    pub(crate) fn rules_of(&self, span: Span) -> impl Iterator<Item = (RuleId, &Rule)> {
        let rules = self
            .rules
            .get(span.start as usize..span.end as usize)
            .unwrap_or_default();
        (span.start..span.end).map(RuleId).zip(rules)
    }

    fn jumps_of(&self, span: Span) -> impl Iterator<Item = (RuleId, ChainId)> {
        self.rules_of(span)
            .filter_map(|(id, rule)| match rule.action {
                Action::Jump(chain) => Some((id, chain)),
                _ => None,
            })
    }

    /// Measures chains from the callees up, so that each is measured once however
    /// often it is called, and without recursion, for a circle is found by this too.
    /// A round measures at least all chains whose callees an earlier round measured, so
    /// there are no more rounds than levels of nesting.
    fn check(&self) -> Result<(), ProgramError> {
        let mut measures: Vec<Option<Measure>> = vec![None; self.chains.len()];
        let mut pending: Vec<u32> = (0..).take(self.chains.len()).collect();
        while !pending.is_empty() {
            let before = pending.len();
            // Callees are mostly declared after their callers.
            pending.reverse();
            let mut left = Vec::new();
            for id in pending {
                match self.measure(ChainId(id), &measures)? {
                    Some(measure) => {
                        if let Some(slot) = measures.get_mut(id as usize) {
                            *slot = Some(measure);
                        }
                    }
                    None => left.push(id),
                }
            }
            pending = left;
            if pending.len() == before {
                return Err(self.circle(pending.first().copied(), &measures));
            }
        }
        match measures.first() {
            Some(Some(entry)) if entry.steps > MAX_STEPS => Err(ProgramError::TooLong),
            _ => Ok(()),
        }
    }

    /// Steps and depth of one chain; none while a callee is not measured yet.
    fn measure(
        &self,
        id: ChainId,
        measures: &[Option<Measure>],
    ) -> Result<Option<Measure>, ProgramError> {
        let Some(span) = self.chain(id) else {
            return Ok(None);
        };
        let mut sum = Measure {
            steps: u64::from(span.end - span.start),
            depth: 0,
        };
        for (rule, callee) in self.jumps_of(span) {
            let slot = measures
                .get(callee.0 as usize)
                .ok_or(ProgramError::NoSuchChain { rule })?;
            let Some(callee) = slot else { return Ok(None) };
            sum.steps = sum.steps.saturating_add(callee.steps);
            sum.depth = sum.depth.max(callee.depth + 1);
            if sum.depth > MAX_NESTING {
                return Err(ProgramError::TooDeep { rule });
            }
        }
        Ok(Some(sum))
    }

    /// Every chain without a measure calls one without, so following them must come round.
    fn circle(&self, first: Option<u32>, measures: &[Option<Measure>]) -> ProgramError {
        let unmeasured = |chain: &ChainId| matches!(measures.get(chain.0 as usize), Some(None));
        let mut seen = HashMap::new();
        let mut jumps = Vec::new();
        let mut at = first.map(ChainId);
        while let Some(chain) = at {
            if let Some(first) = seen.insert(chain, jumps.len()) {
                jumps.drain(..first);
                break;
            }
            let span = self.chain(chain);
            let next =
                span.and_then(|span| self.jumps_of(span).find(|(_, callee)| unmeasured(callee)));
            jumps.extend(next.map(|(rule, _)| rule));
            at = next.map(|(_, callee)| callee);
        }
        ProgramError::Loop { jumps }
    }
}

/// What walking a chain can cost.
#[derive(Clone, Copy, Debug)]
struct Measure {
    steps: u64,
    depth: usize,
}

fn first_addresses(ports: &[LocalPort]) -> Box<[Option<Ipv4Addr>]> {
    let length = ports
        .iter()
        .map(|p| usize::from(p.port.0) + 1)
        .max()
        .unwrap_or(0);
    let mut addresses = vec![None; length];
    for local in ports {
        if let Some(slot) = addresses.get_mut(usize::from(local.port.0)) {
            *slot = local.first_address;
        }
    }
    addresses.into()
}
