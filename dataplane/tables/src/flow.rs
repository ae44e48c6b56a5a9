//! What a flow is.

use crate::entry::Record;
use crate::key::FlowKey;

/// What made a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A rule took the connection to a local proxy.
    Redirect = 1,
    /// A connection to a taken endpoint itself, delivered as it is.
    Local = 2,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Redirect, Self::Local];

    /// The name that people and JSON see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Redirect => "redirect",
            Self::Local => "local",
        }
    }

    const fn from_bits(bits: u8) -> Self {
        if bits == Self::Local as u8 {
            Self::Local
        } else {
            Self::Redirect
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
    /// Kind in the low byte, generation in the upper half: not 0, since no kind is.
    pub(crate) fn record(&self) -> Record<K> {
        Record {
            first: self.orig,
            second: self.reply,
            meta: u64::from(self.generation) << 32 | self.kind as u64,
            stamp: self.created_ns,
        }
    }

    pub(crate) const fn of(record: &Record<K>) -> Self {
        Self {
            orig: record.first,
            reply: record.second,
            kind: Kind::from_bits(record.meta as u8),
            generation: (record.meta >> 32) as u32,
            created_ns: record.stamp,
        }
    }
}
