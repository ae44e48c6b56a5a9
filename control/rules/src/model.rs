//! A ruleset as plain data.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::sync::Arc;

use policy::{Network, PortRange, RuleId, Verdict};
use wire::Protocol;

use crate::place::Placed;

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
    /// Redirection of connections to local proxies.
    Tproxy,
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

/// What a match asks. The order is that of printing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Test {
    /// `-s`
    Source(Network),
    /// `-d`
    Destination(Network),
    /// `-i`
    InInterface(InterfacePattern),
    /// `-p`
    Protocol(Protocol),
    /// `--sport`
    SourcePorts(PortRange),
    /// `--dport`
    DestinationPorts(PortRange),
    /// `-m comment --comment`: always holds.
    Comment(String),
}

/// An interface name, or the beginning of names (`eth+`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InterfacePattern {
    /// The name, without the `+`.
    pub name: String,
    /// Whether anything may follow.
    pub prefix: bool,
}

/// What a rule does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Target {
    /// Leaves the packet alone.
    Accept,
    /// Drops it.
    Drop,
    /// Goes back to the calling chain, or in a built-in chain to its policy.
    Return,
    /// Calls a user chain.
    Jump(String),
    /// Redirects to a local proxy.
    Tproxy {
        /// The proxy's port; none keeps the destination port.
        on_port: Option<NonZeroU16>,
        /// The proxy's address; none is the first of the ingress interface.
        on_ip: Option<Ipv4Addr>,
    },
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
}

impl TableName {
    /// Every table.
    pub const ALL: [Self; 1] = [Self::Tproxy];

    /// The name as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tproxy => "tproxy",
        }
    }

    /// The chains that the table always has.
    #[must_use]
    pub const fn built_in_chains(self) -> &'static [&'static str] {
        match self {
            Self::Tproxy => &["PREROUTING", "OUTPUT"],
        }
    }
}

impl Ruleset {
    /// The table of this name, if the text has it.
    #[must_use]
    pub fn table(&self, name: TableName) -> Option<&Placed<Table>> {
        self.tables.iter().find(|table| table.name == name)
    }
}

impl Table {
    /// Every rule with its chain, its number in the chain (from 1) and its [`RuleId`].
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &Chain, usize, &Placed<Rule>)> {
        let chained = self.chains.iter().flat_map(|chain| {
            let chain = &chain.value;
            (1..)
                .zip(&chain.rules)
                .map(move |(number, rule)| (chain, number, rule))
        });
        (0..)
            .map(RuleId)
            .zip(chained)
            .map(|(id, (chain, number, rule))| (id, chain, number, rule))
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
