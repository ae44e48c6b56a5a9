//! The operations.

use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::Arc;

use shm::{Access, Operation, Reply, Request};
use tables::OwnerId;
use wire::{Endpoint, Protocol};

use crate::client::{Client, Socket, is_granted};
use crate::entry::{Diverted, Entry};
use crate::refusal::Refusal;
use crate::registry::Registry;
use crate::terms::Terms;

/// The version of the interface: major, minor, patch.
const VERSION: u32 = 2 << 24 | 6;
/// How many free foreign ports ALLOC tries, in case connections hold them.
const PORTS_TRIED: usize = 1024;

impl Registry {
    /// Does what a client asks, or refuses it and changes nothing.
    ///
    /// The caller holds a descriptor of the socket until this has returned: the closing of a
    /// socket is told only if it comes after the socket was watched.
    pub fn answer(
        &mut self,
        client: &Client,
        socket: &Socket,
        request: &Request,
        now_ns: u64,
    ) -> Reply {
        let mut done = self.perform(client, socket, request, now_ns);
        if let Err(refusal) = done
            && refusal.is_clash()
        {
            // What stands in the way may have been closed a moment ago.
            let has_ended = self.catch_up_for(socket, request, now_ns);
            if refusal == Refusal::NoRoom {
                self.sweep(now_ns);
            }
            if has_ended || refusal == Refusal::NoRoom {
                done = self.perform(client, socket, request, now_ns);
            }
        }
        match done {
            Ok(reply) => Reply {
                proto: socket.proto,
                cookie: socket.cookie,
                local: Some(SocketAddr::V4(socket.local)),
                ..reply
            },
            Err(refusal) => {
                self.counts.refused += 1;
                Reply::refused(refusal.errno())
            }
        }
    }

    /// Ends what has closed and stands in this request's way.
    fn catch_up_for(&mut self, socket: &Socket, request: &Request, now_ns: u64) -> bool {
        let own = self.own(socket).ok().and_then(|owner| self.entry(owner));
        let own = own.map(|entry| entry.terms.foreign);
        let asked = request.foreign.and_then(|foreign| ipv4(foreign).ok());
        let local = endpoint(socket.local);
        let foreign = own.or(asked).unwrap_or(local);
        self.catch_up(Protocol(socket.proto), [local, foreign], now_ns)
    }

    fn perform(
        &mut self,
        client: &Client,
        socket: &Socket,
        request: &Request,
        now_ns: u64,
    ) -> Result<Reply, Refusal> {
        is_about(request, socket)?;
        self.end_moved(socket, now_ns);
        let nothing = Reply::default();
        match (request.operation, request.access) {
            (Operation::Version, Access::Set) => check_version(request.version).map(|()| nothing),
            (Operation::Version, Access::Get) => Ok(Reply {
                version: VERSION,
                ..nothing
            }),
            (Operation::Assign, Access::Set) => {
                let terms = Terms::new(foreign_of(request)?);
                self.assign(client, socket, terms, now_ns).map(|()| nothing)
            }
            (Operation::AssignFlags, Access::Set) => {
                let terms = Terms {
                    peer: request.peer.map(ipv4).transpose()?,
                    flags: Terms::settable(request.flags)?,
                    ..Terms::new(foreign_of(request)?)
                };
                self.assign(client, socket, terms, now_ns).map(|()| nothing)
            }
            (Operation::Unassign, Access::Set) => {
                let owner = self.own(socket)?;
                self.end(owner, now_ns);
                Ok(nothing)
            }
            (Operation::Query, Access::Get) => self.query(socket),
            (Operation::Flags, Access::Set) => {
                let owner = self.own(socket)?;
                let flags = Terms::settable(request.flags)?;
                self.amend(client, owner, |terms| Terms { flags, ..terms })
                    .map(|()| nothing)
            }
            (Operation::Flags, Access::Get) => {
                let owner = self.own(socket)?;
                let flags = self.flags(owner)?;
                Ok(Reply { flags, ..nothing })
            }
            (Operation::Alloc, Access::Set) => self.alloc(client, socket).map(|()| nothing),
            (Operation::Connect, Access::Set) => {
                let owner = self.own(socket)?;
                let peer = Some(ipv4(request.peer.ok_or(Refusal::Invalid)?)?);
                self.amend(client, owner, |terms| Terms { peer, ..terms })
                    .map(|()| nothing)
            }
            (Operation::OriginalDestination, Access::Get) => self.original(socket, request, now_ns),
            (Operation::Query | Operation::OriginalDestination, Access::Set)
            | (
                Operation::Assign
                | Operation::AssignFlags
                | Operation::Unassign
                | Operation::Alloc
                | Operation::Connect,
                Access::Get,
            ) => Err(Refusal::NoOption),
        }
    }

    /// A TCP socket that failed to connect can lose its port and get another. What was
    /// registered was the first one.
    fn end_moved(&mut self, socket: &Socket, now_ns: u64) {
        if let Ok(owner) = self.own(socket)
            && self
                .entry(owner)
                .is_some_and(|entry| entry.local != endpoint(socket.local))
        {
            self.end(owner, now_ns);
        }
    }

    pub(crate) fn own(&self, socket: &Socket) -> Result<OwnerId, Refusal> {
        self.names.of_cookie(socket.cookie).ok_or(Refusal::NotFound)
    }

    fn assign(
        &mut self,
        client: &Client,
        socket: &Socket,
        mut terms: Terms,
        now_ns: u64,
    ) -> Result<(), Refusal> {
        self.is_allowed(client, &terms)?;
        if self.own(socket).is_ok() {
            return Err(Refusal::AssignedAlready);
        }
        self.is_local_usable(socket)?;
        let proto = Protocol(socket.proto);
        if terms.is_fixed() && self.names.is_held(proto, terms.foreign) {
            // The holders may have been closed a moment ago.
            let held = [endpoint(socket.local), terms.foreign];
            self.catch_up(proto, held, now_ns);
            terms.is_connect_only = self.names.is_held(proto, terms.foreign);
        }
        if terms.is_connect_only && !socket.reuse {
            return Err(Refusal::ForeignTaken);
        }
        let entry = Entry {
            cookie: socket.cookie,
            proto,
            local: endpoint(socket.local),
            terms,
            socket_uid: socket.uid,
            client: Arc::new(client.clone()),
            created_ns: now_ns,
            registration: None,
            is_taken_over: false,
            is_orphan: false,
            diverted: Diverted::default(),
        };
        self.make(entry, now_ns).map(|_| ())
    }

    pub(crate) fn is_allowed(&self, client: &Client, terms: &Terms) -> Result<(), Refusal> {
        let foreign = terms.foreign.addr;
        let is_own = self.world.is_own(foreign);
        is_granted(&self.grants, client.uid, &client.gids, foreign, is_own)
            .then_some(())
            .ok_or(Refusal::NotGranted)
    }

    fn is_local_usable(&self, socket: &Socket) -> Result<(), Refusal> {
        let (addr, port) = (*socket.local.ip(), socket.local.port());
        let is_usable = socket.peer.is_none()
            && port != 0
            && !addr.is_unspecified()
            && !addr.is_loopback()
            && self.world.is_own(addr)
            && !self.world.is_management(Protocol(socket.proto), port);
        is_usable.then_some(()).ok_or(Refusal::Invalid)
    }

    /// Changes the terms of a registration that this client may have.
    fn amend(
        &mut self,
        client: &Client,
        owner: OwnerId,
        change: impl FnOnce(Terms) -> Terms,
    ) -> Result<(), Refusal> {
        let old = self.entry(owner).ok_or(Refusal::NotFound)?.terms;
        self.is_allowed(client, &old)?;
        let new = change(old);
        if new == old {
            Ok(())
        } else {
            self.change(owner, new)
        }
    }

    /// Chooses a foreign port from a random place on (RFC 6056, algorithm 1).
    fn alloc(&mut self, client: &Client, socket: &Socket) -> Result<(), Refusal> {
        let owner = self.own(socket)?;
        let entry = self.entry(owner).ok_or(Refusal::NotFound)?.clone();
        let Terms { foreign, .. } = entry.terms;
        self.is_allowed(client, &entry.terms)?;
        if entry.terms.is_mark() || foreign.port != 0 {
            return Err(Refusal::Invalid);
        }
        let terms = self.free_terms(owner, &entry).ok_or(Refusal::NoPort)?;
        self.change(owner, terms)
    }

    /// The terms of this entry with a foreign port that will do.
    fn free_terms(&self, owner: OwnerId, entry: &Entry) -> Option<Terms> {
        // Keyed anew each time by the system's randomness.
        let start = RandomState::new().hash_one(entry.cookie) as u32;
        let addr = entry.terms.foreign.addr;
        let free = self.names.free_ports(entry.proto, addr, &self.ports, start);
        let with = |port| Terms {
            foreign: Endpoint::new(addr, port),
            ..entry.terms
        };
        free.take(PORTS_TRIED).map(with).find(|terms| {
            let candidate = Entry {
                terms: *terms,
                ..entry.clone()
            };
            self.check(Some(owner), &candidate).is_ok()
        })
    }
}

/// Whether the request means this socket, and the socket will do at all.
fn is_about(request: &Request, socket: &Socket) -> Result<(), Refusal> {
    if ![Protocol::TCP, Protocol::UDP].contains(&Protocol(socket.proto)) {
        return Err(Refusal::Invalid);
    }
    if request.cookie != 0 && request.cookie != socket.cookie {
        return Err(Refusal::OtherSocket);
    }
    if request.proto != 0 && request.proto != socket.proto {
        return Err(Refusal::Invalid);
    }
    local_of(request, socket).map(|_| ())
}

/// The local endpoint: the socket's, or one that a socket bound to no address has meanwhile.
pub(crate) fn local_of(request: &Request, socket: &Socket) -> Result<Endpoint, Refusal> {
    let own = endpoint(socket.local);
    let Some(given) = request.local else {
        return Ok(own);
    };
    let given = ipv4(given)?;
    let is_so = given == own || (own.addr.is_unspecified() && given.port == own.port);
    is_so.then_some(given).ok_or(Refusal::Invalid)
}

fn check_version(version: u32) -> Result<(), Refusal> {
    let (major, minor) = (version >> 24, version >> 16 & 0xff);
    (major == 2 && minor == 0)
        .then_some(())
        .ok_or(Refusal::Invalid)
}

fn foreign_of(request: &Request) -> Result<Endpoint, Refusal> {
    ipv4(request.foreign.ok_or(Refusal::Invalid)?)
}

/// The IPv4 endpoint, be it in IPv6 clothes.
pub(crate) fn ipv4(address: SocketAddr) -> Result<Endpoint, Refusal> {
    let addr = match address {
        SocketAddr::V4(v4) => Some(*v4.ip()),
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped(),
    };
    let addr = addr.ok_or(Refusal::Invalid)?;
    Ok(Endpoint::new(addr, address.port()))
}

pub(crate) fn endpoint(address: SocketAddrV4) -> Endpoint {
    Endpoint::new(*address.ip(), address.port())
}
