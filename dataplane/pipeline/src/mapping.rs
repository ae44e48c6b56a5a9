//! Making flows: what name a connection gets where its own is taken.

use tables::{
    Direction, Flow, FlowKey, Hit, InsertError, Kind, NewFlow, OwnerId, Registration, Side,
};
use wire::{Endpoint, Protocol, Tuple};

use crate::batch::Stage;
use crate::counters::Event;
use crate::drops::DropReason;
use crate::refusing::Refusal;
use crate::registered::has_ports;

/// How many source ports are tried to tell two connections apart. With half of all ports
/// taken, all of them fail once in 2^64 connections.
const PORT_TRIES: u32 = 64;
/// The first port that a changed source port may get (RFC 6056 3.2).
const FIRST_FREE_PORT: u16 = 1024;

/// Why a flow is made, and for whom.
#[derive(Clone, Copy)]
pub(crate) struct Cause {
    pub(crate) kind: Kind,
    pub(crate) owner: OwnerId,
    /// Whether datagrams are taken one by one.
    pub(crate) one_way: bool,
}

impl Cause {
    /// What no registration is behind.
    pub(crate) const fn of(kind: Kind) -> Self {
        Self {
            kind,
            owner: OwnerId::NOBODY,
            one_way: false,
        }
    }

    /// A flow that lives with its registration.
    pub(crate) const fn owned(kind: Kind, registration: &Registration) -> Self {
        Self {
            owner: registration.owner,
            ..Self::of(kind)
        }
    }

    /// A flow that the registration itself takes from the wire.
    pub(crate) fn taken(kind: Kind, registration: &Registration) -> Self {
        Self {
            one_way: registration.is_one_way(),
            ..Self::owned(kind, registration)
        }
    }
}

/// What came of an attempt to make a flow.
enum Made {
    New(Hit),
    /// Another worker was first.
    Exists(Hit),
    /// Another flow has the reply's key.
    ReplyTaken,
}

impl Stage<'_> {
    /// Makes the flow of `tuple`, which came by the wire, to the local endpoint `to`. The
    /// endpoint sees the true source port, or another one where that would be a second
    /// connection of one name.
    pub(crate) fn lead_to(
        &mut self,
        cause: Cause,
        tuple: &Tuple,
        to: Endpoint,
    ) -> Result<Hit, Refusal> {
        let side = if cause.one_way {
            Side::OneWay
        } else {
            Side::Wire
        };
        let orig = FlowKey::new(side, tuple);
        let mut shown = tuple.src;
        for tried in 0..=PORT_TRIES {
            let reply = Tuple {
                proto: tuple.proto,
                src: to,
                dst: shown,
            };
            match self.insert(cause, orig, FlowKey::new(Side::Host, &reply))? {
                Made::New(hit) => return Ok(self.noted(hit, tried)),
                Made::Exists(hit) => return Ok(hit),
                Made::ReplyTaken if !has_ports(tuple.proto) => break,
                Made::ReplyTaken => shown.port = self.next_port(),
            }
        }
        Err(Refusal::drop(DropReason::NoPort))
    }

    /// Makes the flow of `tuple`, which the stack sends, as it is.
    pub(crate) fn let_out(&mut self, cause: Cause, tuple: &Tuple) -> Result<Hit, Refusal> {
        let orig = FlowKey::new(Side::Host, tuple);
        let reply = FlowKey::new(Side::Wire, &tuple.reversed());
        for _ in 0..=PORT_TRIES {
            match self.insert(cause, orig, reply)? {
                Made::New(hit) => return Ok(hit),
                Made::Exists(hit) if [OwnerId::NOBODY, cause.owner].contains(&hit.flow.owner) => {
                    return Ok(hit);
                }
                // Another socket's, by which nothing of this one may leave.
                Made::Exists(hit) if tuple.proto == Protocol::TCP => self.replace(&hit),
                Made::Exists(_) => return Err(Refusal::drop(DropReason::Stranger)),
                Made::ReplyTaken => break,
            }
        }
        Err(Refusal::drop(DropReason::NoPort))
    }

    /// Makes the flow of `tuple`, which the stack sends, with the registration's foreign
    /// endpoint as its source. A foreign port of 0 is chosen: the local one if it is free.
    pub(crate) fn connect(&mut self, own: &Registration, tuple: &Tuple) -> Result<Hit, Refusal> {
        let cause = Cause::owned(Kind::Connect, own);
        let orig = FlowKey::new(Side::Host, tuple);
        let is_chosen = own.foreign.port == 0;
        let mut shown = own.foreign;
        if is_chosen {
            shown.port = tuple.src.port;
        }
        for tried in 0..=PORT_TRIES {
            let reply = Tuple {
                proto: tuple.proto,
                src: tuple.dst,
                dst: shown,
            };
            let reply = FlowKey::new(Side::Wire, &reply);
            match self.insert(cause, orig, reply)? {
                Made::New(hit) if is_chosen => return Ok(self.noted(hit, tried)),
                Made::New(hit) => return Ok(hit),
                Made::Exists(hit) => {
                    if self.is_of(&hit, own)? {
                        return Ok(hit);
                    }
                    self.replace(&hit);
                }
                Made::ReplyTaken if is_chosen => shown.port = self.next_port(),
                Made::ReplyTaken => self.vacate(&reply)?,
            }
        }
        Err(Refusal::drop(if is_chosen {
            DropReason::NoPort
        } else {
            DropReason::ForeignTaken
        }))
    }

    /// Whether a flow that another worker has just made serves this registration's socket.
    fn is_of(&self, hit: &Hit, own: &Registration) -> Result<bool, Refusal> {
        if hit.flow.owner == own.owner && hit.flow.kind != Kind::Local {
            Ok(true)
        } else if self.flows.is_withdrawn(own.owner) {
            // The other one has read the newer registration.
            Err(Refusal::drop(DropReason::OwnerGone))
        } else {
            Ok(false)
        }
    }

    /// Frees a foreign endpoint that a flow holds without needing it any more.
    fn vacate(&mut self, reply: &FlowKey) -> Result<(), Refusal> {
        match self.flows.lookup(reply) {
            None => Ok(()),
            Some(holder) if self.is_spent(&holder) => {
                self.replace(&holder);
                Ok(())
            }
            Some(_) => Err(Refusal::drop(DropReason::ForeignTaken)),
        }
    }

    /// Whether a flow has no right to its names any more. A connection that is open has, even
    /// if its registration was withdrawn: it may still talk. One that nobody has answered has
    /// not if it came from the wire, where anybody can begin one, or was given up.
    fn is_spent(&self, holder: &Hit) -> bool {
        let Flow { orig, owner, .. } = holder.flow;
        let is_weak = orig.side() != Side::Host || self.flows.is_withdrawn(owner);
        self.flows.is_over(holder)
            || self.flows.is_orphan(&holder.flow)
            || (is_weak && self.flows.is_unanswered(holder))
    }

    fn noted(&self, hit: Hit, tried: u32) -> Hit {
        if tried > 0 {
            self.counters.count(Event::PortChanged);
        }
        hit
    }

    fn insert(&mut self, cause: Cause, orig: FlowKey, reply: FlowKey) -> Result<Made, Refusal> {
        let new = NewFlow {
            orig,
            reply,
            kind: cause.kind,
            generation: self.view.policy.generation(),
            owner: cause.owner,
        };
        match self.flows.insert(&new, self.now_ns) {
            Ok(hit) => {
                self.flows_changed = true;
                self.counters.count(match cause.kind {
                    Kind::Redirect => Event::Redirected,
                    Kind::Local => Event::Local,
                    Kind::Listen => Event::Listened,
                    Kind::Connect => Event::Connected,
                });
                Ok(Made::New(hit))
            }
            // A request of the other side that looks like a reply to one of this side's.
            Err(InsertError::Exists(Hit {
                direction: Direction::Reply,
                ..
            })) if orig.tuple().proto == Protocol::ICMP => Err(Refusal::drop(DropReason::NoPort)),
            Err(InsertError::Exists(hit)) => Ok(Made::Exists(hit)),
            Err(InsertError::ReplyTaken) => Ok(Made::ReplyTaken),
            Err(InsertError::OwnerGone) => Err(Refusal::drop(DropReason::OwnerGone)),
            Err(InsertError::Full) => Err(Refusal::drop(DropReason::TableFull)),
        }
    }

    /// An unpredictable port of the dynamic class (splitmix64 over a secret seed).
    fn next_port(&mut self) -> u16 {
        *self.port_seed = self.port_seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *self.port_seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let span = u64::from(u16::MAX - FIRST_FREE_PORT) + 1;
        FIRST_FREE_PORT + (z % span) as u16
    }
}
