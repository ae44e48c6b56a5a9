//! Compiled rules: a packet in, a decision out.
//!
//! Invariant: a policy never changes, but for what its limits have given out; a new ruleset
//! or a changed interface address makes a new policy with a higher generation.
//! Never here: text, allocation or locks while asking, I/O, clocks.

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

use wire::Protocol;

mod asked;
pub mod capture;
mod check;
mod classifier;
mod condition;
mod cuts;
mod filing;
mod hash_limit;
mod hook;
mod key;
mod limit;
mod packet;
mod policy;
mod prefixes;
mod program;
mod quality;
mod ranges;
mod reach;
mod region;
mod sets;
mod walk;
mod zones;

pub use condition::{Network, PortSet, Test};
pub use hook::Hook;
pub use packet::{ConnState, Packet, StateSet};
pub use policy::Policy;
pub use program::{
    Action, ChainId, Entry, LocalPort, MAX_NESTING, MAX_OWNERS, MAX_STEPS, NoListener, OwnerTest,
    Program, ProgramError, RejectWith, Rule, Verdict,
};
pub use quality::{Condition, End, HashKey, HashLimit, Quality, Rate, SetId, Which};
pub use ranges::{PortRange, WIDEST};
pub use sets::{IpSet, NetworkEntry, PortEntry, SetEntries};
pub use walk::{Arrival, Sink, Stop};
pub use zones::{ServiceId, ServiceSpec, ZoneDenial, ZoneError, ZoneId, ZoneSpec, Zones};

/// Index of a `[[port]]` in the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct PortId(pub u8);

/// Index of a rule in its policy: chain by chain in the order of their declaration,
/// in a chain from top to bottom; after all rules the policies of the hooks' chains.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct RuleId(pub u32);

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
