//! What is asked of the table, and what it answers.

use crate::flow::{Flow, FlowId, Kind};
use crate::key::{Direction, FlowKey, Side};
use crate::lane::{FlowState, LaneCounters, Timeouts};
use crate::owners::OwnerId;

/// A flow to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NewFlow<const K: usize = 2> {
    /// The key of the original direction.
    pub orig: FlowKey<K>,
    /// The key of the reply direction.
    pub reply: FlowKey<K>,
    /// What makes it.
    pub kind: Kind,
    /// The policy that judged it.
    pub generation: u32,
    /// Whose registration it comes from.
    pub owner: OwnerId,
}

/// Why a flow was not made. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InsertError<const K: usize = 2> {
    /// The original key has a flow already: another worker was first. Use its flow.
    Exists(Hit<K>),
    /// Another flow has the reply key: choose another port.
    ReplyTaken,
    /// Its owner has been withdrawn, or never was.
    OwnerGone,
    /// No room, or only what is kept for flows that the box begins. Live flows are never
    /// evicted.
    Full,
}

/// A flow found, and which of its directions the key was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hit<const K: usize = 2> {
    /// Names the flow.
    pub id: FlowId,
    /// The direction that the key belongs to.
    pub direction: Direction,
    /// The flow.
    pub flow: Flow<K>,
}

impl Hit<2> {
    /// The tuple that a packet of this direction leaves with: the reverse of what
    /// answers to it carry when they arrive.
    #[must_use]
    pub const fn translated(&self) -> wire::Tuple {
        match self.direction {
            Direction::Original => self.flow.reply.tuple().reversed(),
            Direction::Reply => self.flow.orig.tuple().reversed(),
        }
    }

    /// The side that a packet of this direction leaves by: where its answers come in.
    #[must_use]
    pub fn leaves_by(&self) -> Side {
        let side = match self.direction {
            Direction::Original => self.flow.reply.side(),
            Direction::Reply => self.flow.orig.side(),
        };
        match side {
            Side::Host => Side::Host,
            Side::Wire | Side::OneWay => Side::Wire,
        }
    }
}

/// A reading of one flow with its counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowSnapshot<const K: usize = 2> {
    /// Names the flow.
    pub id: FlowId,
    /// The flow.
    pub flow: Flow<K>,
    /// Where it stands.
    pub state: FlowState,
    /// The original direction.
    pub orig: LaneCounters,
    /// The reply direction.
    pub reply: LaneCounters,
}

impl<const K: usize> FlowSnapshot<K> {
    /// When a packet of either direction was last seen; its making counts as one.
    #[must_use]
    pub fn last_seen_ns(&self) -> u64 {
        self.orig
            .last_seen_ns
            .max(self.reply.last_seen_ns)
            .max(self.flow.created_ns)
    }

    /// When the flow goes if nothing more is seen of it.
    #[must_use]
    pub fn expires_ns(&self, timeouts: &Timeouts) -> u64 {
        let timeout_ns = timeouts.of(self.flow.orig.proto(), self.state);
        self.last_seen_ns().saturating_add(timeout_ns)
    }
}

/// How full the table is: `live + resting + free == capacity` at every moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Flows.
    pub live: usize,
    /// Places that a flow has just left.
    pub resting: usize,
    /// Places for new flows.
    pub free: usize,
    /// All places.
    pub capacity: usize,
}
