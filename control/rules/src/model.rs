//! A ruleset as plain data.

use std::sync::Arc;

use policy::{RuleId, Verdict};
use wire::Protocol;

use crate::matches::Test;
use crate::place::Placed;
use crate::targets::Target;

/// All tables of one text.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ruleset {
    /// The name of the text, for messages.
    pub file: Arc<str>,
    /// The tables, in the order of the text.
    pub tables: Vec<Placed<Table>>,
}

/// The tables that rules can be written for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TableName {
    /// What comes before everything: which packets need no flow.
    Raw,
    /// Marks.
    Mangle,
    /// Redirection of connections to local proxies.
    Tproxy,
    /// Translation of addresses.
    Nat,
    /// What may pass.
    Filter,
}

/// A table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Table {
    /// Its name.
    pub name: TableName,
    /// Its chains: the built-in ones first, then the user's in the order of their declaration.
    pub chains: Vec<Placed<Chain>>,
}

/// A chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chain {
    /// Its name.
    pub name: String,
    /// What becomes of packets at its end; none in a user chain, which returns.
    pub policy: Option<Verdict>,
    /// The counters of its declaration.
    pub counters: Counters,
    /// Its rules, from top to bottom.
    pub rules: Vec<Placed<Rule>>,
}

/// Packets and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// A rule: matches that must all hold, and a target.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rule {
    /// The counters that the text gives it.
    pub counters: Option<Counters>,
    /// The matches, in the order in which they are printed.
    pub matches: Vec<Placed<Match>>,
    /// The target; a rule without one only counts.
    pub target: Option<Placed<Target>>,
}

/// A test and whether it must hold or must not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Match {
    /// Whether `!` stands before it.
    pub negated: bool,
    /// What is asked.
    pub test: Test,
}

/// An interface name, or the beginning of names (`eth+`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfacePattern {
    /// The name, without the `+`.
    pub name: String,
    /// Whether anything may follow.
    pub prefix: bool,
}

impl InterfacePattern {
    /// Whether an interface of this name is meant.
    #[must_use]
    pub fn matches(&self, interface: &str) -> bool {
        if self.prefix {
            interface.starts_with(&self.name)
        } else {
            interface == self.name
        }
    }

    /// Whether it is `+` alone: every interface, and none at all.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.prefix && self.name.is_empty()
    }
}

impl TableName {
    /// Every table.
    pub const ALL: [Self; 5] = [
        Self::Raw,
        Self::Mangle,
        Self::Tproxy,
        Self::Nat,
        Self::Filter,
    ];

    /// The name as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Tproxy => "tproxy",
            Self::Nat => "nat",
            Self::Filter => "filter",
        }
    }

    /// The chains that the table always has.
    #[must_use]
    pub const fn built_in_chains(self) -> &'static [&'static str] {
        match self {
            Self::Raw | Self::Tproxy => &["PREROUTING", "OUTPUT"],
            Self::Mangle => &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"],
            Self::Nat => &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"],
            Self::Filter => &["INPUT", "FORWARD", "OUTPUT"],
        }
    }

    /// The policy of a built-in chain that the text does not declare.
    #[must_use]
    pub fn default_policy(self, chain: &str) -> Verdict {
        if self == Self::Filter && chain == "FORWARD" {
            Verdict::Drop
        } else {
            Verdict::Accept
        }
    }
}

impl Ruleset {
    /// The table of this name, if the text has it.
    #[must_use]
    pub fn table(&self, name: TableName) -> Option<&Placed<Table>> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// Every chain with its table.
    pub(crate) fn all_chains(&self) -> impl Iterator<Item = (TableName, &Placed<Chain>)> {
        self.tables
            .iter()
            .flat_map(|table| table.chains.iter().map(|chain| (table.name, chain)))
    }

    /// Every rule with its table, its chain, its number in the chain (from 1) and its [`RuleId`].
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, TableName, &Chain, usize, &Placed<Rule>)> {
        let chained = self.all_chains().flat_map(|(table, chain)| {
            let chain = &chain.value;
            (1..)
                .zip(&chain.rules)
                .map(move |(number, rule)| (table, chain, number, rule))
        });
        (0..)
            .map(RuleId)
            .zip(chained)
            .map(|(id, (table, chain, number, rule))| (id, table, chain, number, rule))
    }

    /// How many rules it has; the [`RuleId`]s of policies begin here.
    #[must_use]
    pub fn rule_count(&self) -> usize {
        self.all_chains().map(|(_, chain)| chain.rules.len()).sum()
    }

    /// The rule of this number, with its table and chain.
    #[must_use]
    pub fn rule(&self, id: RuleId) -> Option<(TableName, &Chain, &Placed<Rule>)> {
        let mut left = usize::try_from(id.0).ok()?;
        for (table, chain) in self.all_chains() {
            match chain.rules.get(left) {
                Some(rule) => return Some((table, &chain.value, rule)),
                None => left = left.saturating_sub(chain.rules.len()),
            }
        }
        None
    }
}

impl Rule {
    /// The protocol that every packet which matches must have.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        self.matches.iter().find_map(|m| match m.test {
            Test::Protocol(protocol) if !m.negated => Some(protocol),
            _ => None,
        })
    }
}
