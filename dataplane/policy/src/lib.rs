//! Compiled rules: a first packet in, a decision out.
//!
//! Invariant: a policy never changes; a new ruleset or a changed interface address
//! makes a new policy with a higher generation.
//! Never here: text, allocation while deciding, I/O, clocks.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic
    )
)]

use std::ops::RangeInclusive;

use wire::{Endpoint, Protocol, Tuple};

mod condition;
mod decide;
mod program;
mod ranges;
mod reach;
mod region;

pub use condition::{Network, PortSet, Test};
pub use program::{
    Action, ChainId, LocalPort, MAX_NESTING, MAX_STEPS, Program, ProgramError, Rule, Verdict,
};
pub use ranges::{PortRange, WIDEST};

/// Index of a `[[port]]` in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PortId(pub u8);

/// Index of a rule in its policy: chain by chain in the order of their declaration,
/// in a chain from top to bottom.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RuleId(pub u32);

/// What the rules are asked about: the first packet of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FirstPacket {
    /// The port that it came in by.
    pub port: PortId,
    /// Protocol, addresses and ports.
    pub tuple: Tuple,
}

/// What the rules say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Take the flow to this local endpoint.
    Redirect(Endpoint),
    /// A rule wants a redirect, but the ingress interface has no address to redirect to.
    NoLocalAddress,
    /// A rule drops it.
    Drop,
    /// No rule took it.
    Unclaimed,
}

/// A protocol and a range of ports at one address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Endpoints {
    /// The address.
    pub addr: std::net::Ipv4Addr,
    /// The protocol; `Protocol(0)` stands for every protocol.
    pub proto: Protocol,
    /// The ports; `0..=65535` where the protocol has none.
    pub ports: RangeInclusive<u16>,
}

/// Compiled rules. Made by [`Policy::new`], which checks all that [`Policy::decide`] relies on.
#[derive(Debug)]
pub struct Policy {
    generation: u32,
    /// Every chain's rules, one chain after the other; a [`RuleId`] is an index here.
    rules: Box<[Rule]>,
    /// Where each chain lies in `rules`. The first is where a packet enters.
    chains: Box<[program::Span]>,
    fallthrough: Verdict,
    ports: Box<[LocalPort]>,
    /// The first address of each port, by [`PortId`].
    first_addresses: Box<[Option<std::net::Ipv4Addr>]>,
}

impl Policy {
    /// The number that its maker gave it.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// How many rules it has; every [`RuleId`] that `decide` reports is below it.
    #[must_use]
    pub const fn rule_count(&self) -> usize {
        self.rules.len()
    }
}
