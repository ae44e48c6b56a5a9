//! Compiled rules: a first packet in, a decision out.
//!
//! Invariant: a policy never changes; a new ruleset or a changed interface address
//! makes a new policy with a higher generation.
//! Never here: text, allocation while deciding, I/O, clocks.

use std::ops::RangeInclusive;

use wire::{Endpoint, Protocol, Tuple};

/// Index of a `[[port]]` in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PortId(pub u8);

/// Index of a rule in its policy, in the order of the ruleset's text.
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
    /// The protocol.
    pub proto: Protocol,
    /// The ports; `0..=65535` where the protocol has none.
    pub ports: RangeInclusive<u16>,
}
