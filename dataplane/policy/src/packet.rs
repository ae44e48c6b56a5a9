//! What the rules are asked about.

use wire::{Protocol, Tuple};

use crate::PortId;

/// How a packet stands to the flows that are known, as Linux' connection tracking has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ConnState {
    /// It opens a flow.
    New,
    /// It belongs to a flow that has been answered, or is the answer.
    Established,
    /// It is an ICMP error about a flow.
    Related,
    /// It should belong to a flow, and there is none.
    Invalid,
    /// A rule has taken it out of tracking.
    Untracked,
}

/// A set of states, and of translations that a flow can have besides.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct StateSet(pub u16);

impl StateSet {
    /// The flow's source is translated.
    pub const SNAT: Self = Self(1 << 8);
    /// The flow's destination is translated.
    pub const DNAT: Self = Self(1 << 9);

    /// The set of one state.
    #[must_use]
    pub const fn of(state: ConnState) -> Self {
        Self(1 << state as u16)
    }

    /// What is in either set.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether the sets have something in common.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// One packet, as a chain of rules sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// The port that it came in by; none if the box sends it.
    pub in_port: Option<PortId>,
    /// The port that it leaves by, where that is known.
    pub out_port: Option<PortId>,
    /// Protocol, addresses and ports, as they are at this point of the packet's way.
    pub tuple: Tuple,
    /// ICMP type and code.
    pub icmp: Option<(u8, u8)>,
    /// TCP flags as on the wire.
    pub tcp_flags: Option<u8>,
    /// It is a later fragment: it has no ports, flags or ICMP type.
    pub is_tail: bool,
    /// The sender on the link, of packets from the wire.
    pub source_mac: Option<[u8; 6]>,
    /// How it stands to the known flows.
    pub state: ConnState,
    /// A tproxy rule or a registration has taken its flow.
    pub is_tproxy: bool,
    /// Its flow's source is translated.
    pub is_snat: bool,
    /// Its flow's destination is translated.
    pub is_dnat: bool,
    /// The mark that rules have set.
    pub mark: u32,
    /// Bit *n*: owner test *n* of the policy holds for the program that sends it.
    pub owners: u8,
    /// Its length.
    pub bytes: u32,
    /// When it came.
    pub now_ns: u64,
    /// The same flow has been asked about before: limits are not drawn on, and count as kept.
    pub is_rejudged: bool,
}

impl Packet {
    /// A packet of which only the tuple is known: it opens a flow, and has nothing special.
    #[must_use]
    pub const fn first(in_port: PortId, tuple: Tuple) -> Self {
        Self {
            in_port: Some(in_port),
            out_port: None,
            tuple,
            icmp: None,
            tcp_flags: None,
            is_tail: false,
            source_mac: None,
            state: ConnState::New,
            is_tproxy: false,
            is_snat: false,
            is_dnat: false,
            mark: 0,
            owners: 0,
            bytes: 0,
            now_ns: 0,
            is_rejudged: false,
        }
    }

    /// Source and destination port; 0 for ICMP, whose tuple may hold an identifier there.
    #[inline]
    pub(crate) fn ports(&self) -> (u16, u16) {
        if self.tuple.proto == Protocol::ICMP {
            (0, 0)
        } else {
            (self.tuple.src.port, self.tuple.dst.port)
        }
    }

    /// Its state and its translations.
    #[inline]
    pub(crate) const fn states(&self) -> StateSet {
        let mut set = StateSet::of(self.state);
        if self.is_snat {
            set = set.or(StateSet::SNAT);
        }
        if self.is_dnat {
            set = set.or(StateSet::DNAT);
        }
        set
    }
}
