//! What rules ask besides ports, protocol and addresses.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use crate::{PortRange, StateSet, ZoneId};

/// Index of a set in its program.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SetId(pub u32);

/// A further question of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// The quality must be missing. What a packet cannot be asked (the ports of a later
    /// fragment, the flags of a datagram) fails either way.
    pub negated: bool,
    /// What is asked.
    pub test: Quality,
}

/// Which transport ports a list is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Which {
    /// The source port.
    Source,
    /// The destination port.
    Destination,
    /// One of both, whichever.
    Either,
}

/// One end of a packet's way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum End {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// What a condition asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Quality {
    /// It is a later fragment.
    Tail,
    /// Of the TCP flags in `mask`, just those in `set` are set.
    TcpFlags {
        /// The flags that are looked at.
        mask: u8,
        /// Those of them that must be set.
        set: u8,
    },
    /// ICMP type and code; type 255 stands for every type and code.
    Icmp {
        /// The type.
        kind: u8,
        /// The codes.
        codes: RangeInclusive<u8>,
    },
    /// A port lies in one of the ranges.
    Ports {
        /// Which port.
        which: Which,
        /// The ranges.
        ranges: Vec<PortRange>,
    },
    /// The source lies in a range.
    SourceRange(RangeInclusive<Ipv4Addr>),
    /// The destination lies in a range.
    DestinationRange(RangeInclusive<Ipv4Addr>),
    /// Its state, or a translation of its flow, is one of these.
    State(StateSet),
    /// Its flow is a proxy's: redirected, or registered.
    Tproxy,
    /// Its mark under the mask.
    Mark {
        /// What must be left.
        value: u32,
        /// What is looked at.
        mask: u32,
    },
    /// Not more often than this.
    Limit(Rate),
    /// Not more often than this for each key, or more often.
    HashLimit(HashLimit),
    /// It is in a set.
    Set {
        /// The set.
        set: SetId,
        /// The end that each dimension of the set looks at. A set with more dimensions
        /// than named here holds nothing.
        by: Vec<End>,
    },
    /// The sender on the link.
    Mac([u8; 6]),
    /// The source's zone is this or lies in it.
    SourceZone(ZoneId),
    /// The destination's zone is this or lies in it.
    DestinationZone(ZoneId),
    /// An owner test of the program, by its index.
    Owner(u8),
}

/// How often something may happen: a bucket of tokens that starts full.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Rate {
    /// How many tokens come in `per_ns`; none counts as one.
    pub tokens: u32,
    /// The time in which they come.
    pub per_ns: u64,
    /// How many the bucket holds; none counts as one.
    pub burst: u32,
}

/// What tells the buckets of a [`HashLimit`] apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum HashKey {
    /// The source address.
    SourceIp,
    /// The source port.
    SourcePort,
    /// The destination address.
    DestinationIp,
    /// The destination port.
    DestinationPort,
}

/// A limit for each of many keys.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HashLimit {
    /// The limit of each key.
    pub rate: Rate,
    /// Asks for what goes beyond the limit instead of what keeps it.
    pub above: bool,
    /// What the key is made of; without any there is one bucket.
    pub by: Vec<HashKey>,
    /// How many leading bits of a source address count.
    pub source_bits: u8,
    /// How many leading bits of a destination address count.
    pub destination_bits: u8,
    /// Rules that name the same table share its buckets.
    pub name: String,
    /// How many buckets the table has room for; 0 for as many as usual. When more keys are busy at
    /// once in one place of the table, a new key goes on where the least busy one was.
    pub most: u32,
    /// After which time without a packet the text lets a key be forgotten. A bucket that
    /// is full again is as good as forgotten, and forgetting it earlier would let more
    /// pass than the rate, so this shortens nothing.
    pub idle_ns: u64,
}
