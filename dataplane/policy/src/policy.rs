//! Rules made ready to be asked.

use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::asked::{Asked, PortSets, Tables, Tests};
use crate::classifier::Classifier;
use crate::hash_limit::Table;
use crate::key::Whole;
use crate::walk::Place;
use crate::{
    Action, ChainId, Condition, Entry, Hook, IpSet, LocalPort, OwnerTest, Packet, PortSet, Program,
    ProgramError, Quality, Rule, RuleId, Verdict, Zones,
};

/// Compiled rules. Made by [`Policy::new`], which checks all that asking them relies on.
#[derive(Debug)]
pub struct Policy {
    generation: u32,
    /// Every chain's rules, one chain after the other; a [`RuleId`] is an index here.
    pub(crate) rules: Box<[Rule]>,
    /// Each rule's own tests.
    pub(crate) tests: Box<[Tests]>,
    /// The sets of ports that they name.
    pub(crate) port_sets: Box<[PortSet]>,
    /// What each rule asks besides.
    pub(crate) asked: Box<[Box<[Asked]>]>,
    /// What each rule does.
    actions: Box<[Action]>,
    pub(crate) chains: Box<[Chain]>,
    entries: [Option<Entered>; Hook::ALL.len()],
    entry_count: usize,
    pub(crate) ports: Box<[LocalPort]>,
    /// The first address of each port, by its id.
    pub(crate) first_addresses: Box<[Option<Ipv4Addr>]>,
    pub(crate) sets: Box<[IpSet]>,
    pub(crate) tables: Box<[Table]>,
    pub(crate) owners: Box<[OwnerTest]>,
    pub(crate) zones: Arc<Zones>,
    tells_macs: bool,
}

/// Where a chain lies in the list of all rules, and how its rules are found if there are many.
#[derive(Debug)]
pub(crate) struct Chain {
    start: u32,
    end: u32,
    classifier: Option<Classifier>,
}

/// An [`Entry`], by its hook, with the number under which its policy's decisions count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entered {
    pub(crate) chain: ChainId,
    pub(crate) policy: Verdict,
    pub(crate) id: RuleId,
}

impl Policy {
    /// Checks a program and makes it ready to be asked.
    ///
    /// # Errors
    /// If the program breaks one of the bounds that asking relies on.
    pub fn new(program: Program) -> Result<Self, ProgramError> {
        let mut chains = Vec::with_capacity(program.chains.len());
        let mut start = 0u32;
        for chain in &program.chains {
            let length = u32::try_from(chain.len()).map_err(|_| ProgramError::TooLong)?;
            let end = start.checked_add(length).ok_or(ProgramError::TooLong)?;
            chains.push(Chain {
                start,
                end,
                classifier: Classifier::new(chain),
            });
            start = end;
        }
        let entries = entered(&program.entries, start)?;
        let rules: Box<[Rule]> = program.chains.into_iter().flatten().collect();
        let mut tables = Tables::default();
        let asked = rules.iter().map(|rule| tables.asked(&rule.more)).collect();
        let tables = tables.finish();
        let mut port_sets = PortSets::default();
        let tests: Result<_, _> = rules.iter().map(|rule| port_sets.tests(rule)).collect();
        let policy = Self {
            generation: program.generation,
            tests: tests?,
            port_sets: port_sets.finish(),
            actions: rules.iter().map(|rule| rule.action).collect(),
            tells_macs: rules.iter().flat_map(|rule| &rule.more).any(is_of_mac),
            rules,
            asked,
            chains: chains.into(),
            entries,
            entry_count: program.entries.len(),
            first_addresses: first_addresses(&program.ports),
            ports: program.ports.into(),
            sets: program.sets.into(),
            tables,
            owners: program.owners.into(),
            zones: program.zones,
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
            tests: Box::default(),
            port_sets: Box::default(),
            asked: Box::default(),
            actions: Box::default(),
            chains: Box::default(),
            entries: Default::default(),
            entry_count: 0,
            ports: Box::default(),
            first_addresses: Box::default(),
            sets: Box::default(),
            tables: Box::default(),
            owners: Box::default(),
            zones: Arc::default(),
            tells_macs: false,
        }
    }

    /// The number that its maker gave it.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// How many counters it needs: every [`RuleId`] that a walk reports, of rules and of chain
    /// policies, is below it.
    #[must_use]
    pub const fn rule_count(&self) -> usize {
        self.rules.len() + self.entry_count
    }

    /// Whether a hook has something to say: rules, or a policy other than ACCEPT.
    #[must_use]
    pub fn stands(&self, hook: Hook) -> bool {
        self.entry(hook).is_some_and(|entry| {
            entry.policy != Verdict::Accept || self.rules_of(entry.chain).next().is_some()
        })
    }

    /// Whether tables other than tproxy can say anything. If not, only [`Policy::arrive`]
    /// and [`Policy::forward`] need be asked, and nobody again.
    #[must_use]
    pub fn judges(&self) -> bool {
        Hook::ALL
            .into_iter()
            .any(|hook| !hook.is_tproxy() && self.stands(hook))
    }

    /// Whether a chain stands that the box's own traffic passes: steering must divert that then.
    #[must_use]
    pub fn guards(&self) -> bool {
        Hook::ALL
            .into_iter()
            .any(|hook| !hook.is_tproxy() && !hook.is_forward() && self.stands(hook))
    }

    /// The questions about senders, by the index that rules use. Of what a packet's
    /// `owners` can say, the first [`MAX_OWNERS`](crate::MAX_OWNERS) are.
    #[must_use]
    pub const fn owners(&self) -> &[OwnerTest] {
        &self.owners
    }

    /// Whether a rule asks who sends a packet on the link.
    #[must_use]
    pub const fn tells_macs(&self) -> bool {
        self.tells_macs
    }

    /// The zones.
    #[must_use]
    pub const fn zones(&self) -> &Arc<Zones> {
        &self.zones
    }

    pub(crate) fn entry(&self, hook: Hook) -> Option<&Entered> {
        self.entries.get(hook.index())?.as_ref()
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = (Hook, &Entered)> {
        let known = Hook::ALL.into_iter().zip(&self.entries);
        known.filter_map(|(hook, entry)| Some((hook, entry.as_ref()?)))
    }

    pub(crate) fn chain(&self, id: ChainId) -> Option<&Chain> {
        self.chains.get(id.0 as usize)
    }

    /// The rules of a chain, each with its number.
    pub(crate) fn rules_of(&self, chain: ChainId) -> impl Iterator<Item = (RuleId, &Rule)> {
        let (start, end) = self.chain(chain).map_or((0, 0), |c| (c.start, c.end));
        let rules = self
            .rules
            .get(start as usize..end as usize)
            .unwrap_or_default();
        (start..end).map(RuleId).zip(rules)
    }

    /// The first rule from a place on that a packet matches. `asks_limit` is set if a limit was
    /// asked on the way.
    #[inline]
    pub(crate) fn next_match(
        &self,
        place: Place,
        packet: &Packet,
        asks_limit: &mut bool,
    ) -> Option<RuleId> {
        let chain = self.chain(place.chain)?;
        let from = place.next.max(chain.start);
        if from >= chain.end {
            return None;
        }
        let Some(classifier) = &chain.classifier else {
            return (from..chain.end)
                .find(|id| self.matches(*id, packet, asks_limit))
                .map(RuleId);
        };
        let start = chain.start;
        let whole = Whole::of(packet);
        classifier
            .next(from - start, &whole, packet.is_tail, |n| {
                self.matches(start + n, packet, asks_limit)
            })
            .map(|n| RuleId(start + n))
    }

    pub(crate) fn action(&self, id: RuleId) -> Action {
        self.actions
            .get(id.0 as usize)
            .copied()
            .unwrap_or(Action::Drop)
    }

    /// How many rules of a chain one packet can be held against at worst, with what each leads to.
    pub(crate) fn steps(&self, id: ChainId, beyond: impl Fn(Action) -> u64) -> u64 {
        let Some(chain) = self.chain(id) else {
            return 0;
        };
        let step = |n: u32| beyond(self.action(RuleId(chain.start + n))).saturating_add(1);
        match &chain.classifier {
            Some(classifier) => classifier.steps(step),
            None => (0..chain.end - chain.start).fold(0, |sum: u64, n| sum.saturating_add(step(n))),
        }
    }
}

const fn is_of_mac(condition: &Condition) -> bool {
    matches!(condition.test, Quality::Mac(_))
}

fn entered(
    entries: &[Entry],
    rules: u32,
) -> Result<[Option<Entered>; Hook::ALL.len()], ProgramError> {
    let mut all = [None; Hook::ALL.len()];
    for (id, entry) in (rules..).zip(entries) {
        let slot = all.get_mut(entry.hook.index());
        let entered = Entered {
            chain: entry.chain,
            policy: entry.policy,
            id: RuleId(id),
        };
        if slot.and_then(|slot| slot.replace(entered)).is_some() {
            return Err(ProgramError::EntryTwice(entry.hook));
        }
    }
    Ok(all)
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
