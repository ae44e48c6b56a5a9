//! What a flow is.

use crate::entry::Record;
use crate::key::FlowKey;
use crate::owners::OwnerId;

/// What made a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A rule took the connection to a local proxy.
    Redirect = 1,
    /// A connection to or from a taken endpoint itself, carried as it is.
    Local = 2,
    /// A connection to a foreign endpoint where a proxy has registered to listen.
    Listen = 3,
    /// A proxy's connection from a foreign endpoint that it has registered.
    Connect = 4,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Redirect, Self::Local, Self::Listen, Self::Connect];

    /// The name that people and JSON see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Local => "local",
            Self::Listen => "listen",
            Self::Connect => "connect",
        }
    }

    const fn from_bits(bits: u8) -> Self {
        match bits {
            2 => Self::Local,
            3 => Self::Listen,
            4 => Self::Connect,
            _ => Self::Redirect,
        }
    }
}

/// Who rewrites a flow's packets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Path {
    /// The AF_XDP worker.
    Worker,
}

impl Path {
    /// The name that people and JSON see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
        }
    }
}

/// Names one flow for good: an id of a flow that is gone never names a later one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FlowId {
    pub(crate) idx: u32,
    pub(crate) version: u32,
}

impl FlowId {
    /// The id as one number.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        (self.version as u64) << 32 | self.idx as u64
    }

    /// The id from its number.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self {
            idx: bits as u32,
            version: (bits >> 32) as u32,
        }
    }
}

/// What never changes in a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow<const K: usize = 2> {
    /// The key of the original direction's packets, as they arrive.
    pub orig: FlowKey<K>,
    /// The key of the reply direction's packets, as they arrive.
    pub reply: FlowKey<K>,
    /// What made it.
    pub kind: Kind,
    /// The policy that judged it.
    pub generation: u32,
    /// Whose registration it came from.
    pub owner: OwnerId,
    /// When it was made.
    pub created_ns: u64,
}

impl<const K: usize> Flow<K> {
    /// Who rewrites this flow's packets.
    #[must_use]
    pub const fn path(&self) -> Path {
        Path::Worker
    }
}

impl<const K: usize> Flow<K> {
    /// Kind in the low byte, owner in the three above it, generation in the upper half: not 0,
    /// since no kind is.
    pub(crate) fn record(&self) -> Record<K> {
        Record {
            first: self.orig,
            second: self.reply,
            meta: u64::from(self.generation) << 32
                | u64::from(self.owner.0 & OwnerId::MAX) << 8
                | self.kind as u64,
            stamp: self.created_ns,
        }
    }

    pub(crate) const fn of(record: &Record<K>) -> Self {
        Self {
            orig: record.first,
            reply: record.second,
            kind: Kind::from_bits(record.meta as u8),
            generation: (record.meta >> 32) as u32,
            owner: OwnerId((record.meta as u32) >> 8),
            created_ns: record.stamp,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_record_gives_back_its_flow() {
        for kind in Kind::ALL {
            for (owner, generation) in [(0, 0), (1, 7), (OwnerId::MAX, u32::MAX)] {
                let flow = Flow {
                    orig: FlowKey([1, 2]),
                    reply: FlowKey([3, 4]),
                    kind,
                    generation,
                    owner: OwnerId(owner),
                    created_ns: 5,
                };
                assert_eq!(Flow::of(&flow.record()), flow);
            }
        }
    }
}
