//! What a policy is made from.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use wire::Protocol;

use crate::{Condition, Hook, IpSet, Network, PortId, PortRange, PortSet, RuleId, Test, Zones};

/// How deep chains may call chains: the size of the walk's return stack.
pub const MAX_NESTING: usize = 64;

/// How many rules one packet may be held against at one hook, at worst. Chains that call
/// others twice double the work per level, so a short text could ask for years.
pub const MAX_STEPS: u64 = 1 << 20;

/// How many owner tests there may be besides those of tproxy OUTPUT: as many as a packet
/// has bits for.
pub const MAX_OWNERS: usize = 7;

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

/// How a refused packet's sender is told.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum RejectWith {
    /// ICMP: the port is unreachable.
    #[default]
    PortUnreachable,
    /// ICMP: the network is unreachable.
    NetUnreachable,
    /// ICMP: the host is unreachable.
    HostUnreachable,
    /// ICMP: the protocol is unreachable.
    ProtoUnreachable,
    /// ICMP: the network is prohibited.
    NetProhibited,
    /// ICMP: the host is prohibited.
    HostProhibited,
    /// ICMP: administratively filtered.
    AdminProhibited,
    /// A TCP reset.
    TcpReset,
}

impl RejectWith {
    /// The code of the ICMP message "destination unreachable"; none for a reset.
    #[must_use]
    pub const fn code(self) -> Option<u8> {
        match self {
            Self::NetUnreachable => Some(0),
            Self::HostUnreachable => Some(1),
            Self::ProtoUnreachable => Some(2),
            Self::PortUnreachable => Some(3),
            Self::NetProhibited => Some(9),
            Self::HostProhibited => Some(10),
            Self::AdminProhibited => Some(13),
            Self::TcpReset => None,
        }
    }
}

/// What becomes of a redirected connection if nobody listens where it is redirected to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum NoListener {
    /// It is refused.
    #[default]
    Reject,
    /// It is dropped.
    Drop,
    /// It goes on as if no rule had redirected it.
    Accept,
}

/// What a rule that matches does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Action {
    /// Nothing: the rule only counts.
    #[default]
    Count,
    /// Calls a chain.
    Jump(ChainId),
    /// Goes on in a chain, which returns to where this one would.
    Goto(ChainId),
    /// Goes back to the calling chain; in a hook's own chain, to its policy.
    Return,
    /// Ends the walk: it goes on.
    Accept,
    /// Ends the walk: dropped.
    Drop,
    /// Ends the walk: refused, and the sender is told.
    Reject(RejectWith),
    /// Has it logged, and goes on.
    Log,
    /// Sets the mark to `mark & and ^ xor`, and goes on.
    Mark {
        /// The bits that stay.
        and: u32,
        /// The bits that change.
        xor: u32,
    },
    /// Takes a packet without a flow out of tracking, and goes on. In raw only.
    NoTrack,
    /// Ends the walk: to a local endpoint. In tproxy only.
    Redirect {
        /// The address; none for the first address of the ingress port.
        addr: Option<Ipv4Addr>,
        /// The port; none to keep the packet's destination port.
        port: Option<u16>,
        /// What happens if nobody listens there.
        otherwise: NoListener,
    },
    /// Ends the walk: it is to be translated. In nat only.
    Nat,
}

impl Action {
    /// Whether nothing further down in the chain is asked.
    pub(crate) const fn ends_chain(self) -> bool {
        match self {
            Self::Goto(_)
            | Self::Return
            | Self::Accept
            | Self::Drop
            | Self::Reject(_)
            | Self::Redirect { .. }
            | Self::Nat => true,
            Self::Count | Self::Jump(_) | Self::Log | Self::Mark { .. } | Self::NoTrack => false,
        }
    }
}

/// One rule: tests that must all hold, and an action.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// The ports that the packet may come in by.
    pub in_ports: PortSet,
    /// The ports that it may leave by. An unknown one, here as above, is only in the set of all.
    pub out_ports: PortSet,
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
    /// What else must hold, asked in this order until something does not.
    pub more: Vec<Condition>,
    /// What to do.
    pub action: Action,
}

impl Default for Rule {
    /// A rule that matches everything and only counts.
    fn default() -> Self {
        Self {
            in_ports: PortSet::ALL,
            out_ports: PortSet::ALL,
            proto: Test::Any,
            source: Test::Any,
            destination: Test::Any,
            source_ports: Test::Any,
            destination_ports: Test::Any,
            more: Vec::new(),
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

/// Where a packet enters the chains.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The point of its way.
    pub hook: Hook,
    /// The chain that it enters there.
    pub chain: ChainId,
    /// What becomes of a packet that comes out of that chain undecided.
    pub policy: Verdict,
}

/// A question about the program that sends a packet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OwnerTest {
    /// The user is one of these.
    pub uids: RangeInclusive<u32>,
    /// The group is one of these, if asked; only at tproxy OUTPUT.
    pub gids: Option<RangeInclusive<u32>>,
}

/// Rules as their compiler hands them over.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Program {
    /// The number of this policy; the maker counts it up.
    pub generation: u32,
    /// The chains. [`RuleId`]s count through them in this order.
    pub chains: Vec<Vec<Rule>>,
    /// Where packets enter; one for each hook at most. After the rules, each has a
    /// [`RuleId`] in this order, for what its policy decides.
    pub entries: Vec<Entry>,
    /// The ports of the configuration.
    pub ports: Vec<LocalPort>,
    /// Sets of addresses and ports.
    pub sets: Vec<IpSet>,
    /// Questions about senders: those that more than tproxy OUTPUT asks first, [`MAX_OWNERS`] at most.
    pub owners: Vec<OwnerTest>,
    /// The zones.
    pub zones: Arc<Zones>,
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
    /// Two entries for one hook.
    #[error("{} {} has two chains", .0.table(), .0.chain())]
    EntryTwice(Hook),
    /// An entry is for a chain that the program does not have.
    #[error("{} {} is a chain that does not exist", .0.table(), .0.chain())]
    NoSuchEntry(Hook),
    /// A rule asks for a set or an owner test that the program does not have.
    #[error("rule {} asks for a set or an owner that does not exist", .rule.0)]
    NoSuchTest {
        /// The rule that asks.
        rule: RuleId,
    },
    /// A rule's action has no meaning in the table that leads to it.
    #[error("rule {}: table {} has no such target", .rule.0, .hook.table())]
    Misplaced {
        /// The rule.
        rule: RuleId,
        /// Where a packet comes from that would meet it.
        hook: Hook,
    },
    /// More owner tests than a packet has bits for, or one of a group, outside tproxy OUTPUT.
    #[error("rule {}: at most {MAX_OWNERS} tests of users, and none of groups, outside tproxy OUTPUT", .rule.0)]
    Owners {
        /// The rule that asks one too many.
        rule: RuleId,
    },
    /// Rules name more different sets of ports than can be counted.
    #[error("rules name more than {} different sets of ports", u16::MAX)]
    TooManyPortSets,
    /// One packet could be held against more than [`MAX_STEPS`] rules.
    #[error("one packet could be held against more than {MAX_STEPS} rules")]
    TooLong,
}
