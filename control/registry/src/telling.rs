//! What is told and changes nothing: flags, foreign endpoints, original destinations.

use std::net::SocketAddr;

use shm::{Reply, Request};
use tables::{Direction, FlowKey, FlowTable, Hit, Kind, OwnerId, Side};
use wire::{Endpoint, Protocol, Tuple};

use crate::answer::{endpoint, ipv4, local_of};
use crate::client::Socket;
use crate::entry::Entry;
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::terms::flags;

/// How long a client may keep the original destination of a datagram's shown source.
const KEEP_MS: u32 = 1000;
const MS: u64 = 1_000_000;

impl Registry {
    pub(crate) fn flags(&self, owner: OwnerId) -> Result<u32, Refusal> {
        let entry = self.entry(owner).ok_or(Refusal::NotFound)?;
        Ok(shown_flags(entry, self.flows.has_had(owner)))
    }

    pub(crate) fn query(&self, socket: &Socket) -> Result<Reply, Refusal> {
        let (foreign, peer) = match self.own(socket) {
            Ok(owner) => {
                let peer = self.entry(owner).and_then(|entry| entry.terms.peer);
                (self.foreign_of(owner, socket)?, peer)
            }
            Err(_) => (self.listeners_foreign(socket)?, None),
        };
        Ok(Reply {
            foreign: Some(address(foreign)),
            peer: peer.map(address),
            ..Reply::default()
        })
    }

    /// The foreign endpoint of a registration; its port may have been chosen at connect.
    fn foreign_of(&self, owner: OwnerId, socket: &Socket) -> Result<Endpoint, Refusal> {
        let entry = self.entry(owner).ok_or(Refusal::NotFound)?;
        let foreign = entry.terms.foreign;
        if foreign.port != 0 || entry.terms.is_mark() {
            return Ok(foreign);
        }
        let peer = socket.peer.map(endpoint).or(entry.terms.peer);
        let chosen = peer
            .and_then(|peer| self.flow(entry.proto, entry.local, peer))
            .filter(|hit| hit.direction == Direction::Original && hit.flow.owner == owner)
            .map(|hit| hit.flow.reply.tuple().dst);
        Ok(chosen.unwrap_or(foreign))
    }

    /// The foreign endpoint of the listener that this socket was accepted from.
    fn listeners_foreign(&self, socket: &Socket) -> Result<Endpoint, Refusal> {
        let peer = socket.peer.ok_or(Refusal::NotFound)?;
        self.flow(
            Protocol(socket.proto),
            endpoint(socket.local),
            endpoint(peer),
        )
        .filter(|hit| hit.direction == Direction::Reply && hit.flow.kind == Kind::Listen)
        .map(|hit| hit.flow.orig.tuple().dst)
        .ok_or(Refusal::NotFound)
    }

    /// Where the peer of an accepted socket, or the shown source of a datagram, wanted to go.
    pub(crate) fn original(
        &self,
        socket: &Socket,
        request: &Request,
        now_ns: u64,
    ) -> Result<Reply, Refusal> {
        let proto = Protocol(socket.proto);
        let peer = match (socket.peer, request.peer) {
            (Some(peer), _) => endpoint(peer),
            (None, Some(shown)) if proto == Protocol::UDP => ipv4(shown)?,
            (None, _) => return Err(Refusal::NotFound),
        };
        let local = local_of(request, socket)?;
        let hit = taken(&self.flows, proto, local, peer).ok_or(Refusal::NotFound)?;
        let orig = hit.flow.orig.tuple();
        Ok(Reply {
            foreign: Some(address(orig.dst)),
            peer: Some(address(orig.src)),
            flags: self.keep_ms(&hit, now_ns),
            ..Reply::default()
        })
    }

    /// How long the answer holds. A flow that has just been seen lives for seconds at least,
    /// unless somebody kills it; the shown source belongs to no other flow meanwhile.
    fn keep_ms(&self, hit: &Hit, now_ns: u64) -> u32 {
        let seen = self.flows.snapshot(hit.id).map(|flow| flow.last_seen_ns());
        let is_fresh =
            seen.is_some_and(|seen| now_ns.saturating_sub(seen) < u64::from(KEEP_MS) * MS);
        let is_udp = hit.flow.orig.tuple().proto == Protocol::UDP;
        if is_udp && is_fresh { KEEP_MS } else { 0 }
    }

    fn flow(&self, proto: Protocol, local: Endpoint, peer: Endpoint) -> Option<Hit> {
        sent(&self.flows, proto, local, peer)
    }
}

/// The flow that a rule or a registration brought to the socket at `local`, from what the socket
/// sees as `peer`. Its original direction tells where it was to go.
#[must_use]
pub fn taken(flows: &FlowTable, proto: Protocol, local: Endpoint, peer: Endpoint) -> Option<Hit> {
    sent(flows, proto, local, peer)
        .filter(|hit| hit.direction == Direction::Reply)
        .filter(|hit| match hit.flow.kind {
            Kind::Redirect | Kind::Listen => true,
            Kind::Local | Kind::Connect => false,
        })
}

/// The flow of what the box sends from `local` to `peer`.
fn sent(flows: &FlowTable, proto: Protocol, local: Endpoint, peer: Endpoint) -> Option<Hit> {
    let tuple = Tuple {
        proto,
        src: local,
        dst: peer,
    };
    flows.lookup(&FlowKey::new(Side::Host, &tuple))
}

/// The flags as a client gets them.
pub(crate) fn shown_flags(entry: &Entry, is_applied: bool) -> u32 {
    let with = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
    entry.terms.flags | with(entry.terms.is_mark(), flags::MARK) | with(is_applied, flags::APPLIED)
}

fn address(endpoint: Endpoint) -> SocketAddr {
    SocketAddr::from((endpoint.addr, endpoint.port))
}
