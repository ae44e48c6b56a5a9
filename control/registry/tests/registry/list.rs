//! The naive model: registrations in a list that is looked through from end to end.

use registry::{Socket, flags::*};
use tables::{Hit, OwnerId};
use wire::Endpoint;

use crate::lab::*;

pub const FOREIGN: [&str; 7] = [
    "203.0.113.5:21",
    "203.0.113.5:0",
    "203.0.113.6:21",
    "0.0.0.0:0",
    "10.0.0.2:21",
    "224.0.0.1:21",
    "0.0.0.0:21",
];
pub const PEERS: [&str; 3] = ["198.51.100.7:80", "198.51.100.8:80", "198.51.100.8:0"];
pub const FLAGS: [u32; 10] = [
    0,
    CONNECT,
    LISTEN,
    ESTABLISHED,
    CONNECT | LISTEN,
    LISTEN | UNIDIR,
    CONNECT | ONCE,
    CONNECT | MARK | APPLIED,
    CONNECT | ESTABLISHED,
    8,
];
pub const ACTIVE: u32 = CONNECT | LISTEN | ESTABLISHED;

/// A registration as the list has it.
#[derive(Clone, Debug)]
pub struct Line {
    pub socket: Socket,
    pub foreign: Endpoint,
    pub peer: Option<Endpoint>,
    pub flags: u32,
    pub is_connect_only: bool,
    pub is_orphan: bool,
    pub diverts_local: bool,
    pub diverts_foreign: bool,
    pub owner: OwnerId,
    pub flows: Vec<(Hit, Endpoint)>,
}

impl Line {
    pub fn is_mark(&self) -> bool {
        self.foreign.addr.is_unspecified()
    }

    pub fn is_fixed(&self) -> bool {
        !self.is_mark() && self.foreign.port != 0
    }

    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    pub fn shows(&self) -> bool {
        !self.is_mark() && self.has(CONNECT | ESTABLISHED)
    }

    /// What a worker would have to send from the foreign endpoint to one peer.
    pub fn pair(&self) -> Option<(u8, Endpoint, Endpoint)> {
        let is_claimed = self.is_fixed() && self.has(ACTIVE);
        let peer = self.peer.filter(|_| is_claimed)?;
        Some((self.socket.proto, self.foreign, peer))
    }

    pub fn is_sound(&self) -> bool {
        let is_udp = self.socket.proto == UDP;
        let is_own = OWN.contains(&self.foreign.addr);
        !self.foreign.addr.is_multicast()
            && (!self.is_mark() || self.foreign.port == 0)
            && self.peer.is_none_or(|peer| peer.port != 0)
            && (is_udp || !self.has(ESTABLISHED | UNIDIR))
            && (self.peer.is_some() || !self.has(ESTABLISHED))
            && !(self.is_connect_only && self.has(LISTEN))
            && !(is_own && self.has(CONNECT | ESTABLISHED))
    }
}

#[derive(Default)]
pub struct List(pub Vec<Line>);

impl List {
    pub fn of(&self, socket: &Socket) -> Option<usize> {
        let own = |line: &Line| !line.is_orphan && line.socket.cookie == socket.cookie;
        self.0.iter().position(own)
    }

    /// What stands in the way of `new`, which is line `own` if it is there already.
    pub fn errno(&self, own: Option<usize>, new: &Line) -> i32 {
        let claim = |line: &Line| line.pair().filter(|_| line.has(CONNECT | ESTABLISHED));
        let had = own.and_then(|own| claim(&self.0[own]));
        let is_new = claim(new).is_some() && claim(new) != had;
        let is_other = |(n, line): &(usize, &Line)| Some(*n) != own && !line.is_orphan;
        let lives = |line: &Line| line.socket.proto == new.socket.proto;
        let others: Vec<&Line> = self
            .0
            .iter()
            .enumerate()
            .filter(is_other)
            .map(|(_, l)| l)
            .collect();
        let is_same_local =
            |l: &&&Line| lives(l) && l.socket.local == new.socket.local && l.peer == new.peer;
        let is_same_pair = |l: &&&Line| new.pair().is_some() && l.pair() == new.pair();
        // A connection outlives its registration; what was UDP goes with it.
        let holders =
            self.0.iter().enumerate().filter(|(n, line)| {
                Some(*n) != own && !(line.is_orphan && line.socket.proto == UDP)
            });
        let has_tuple = holders.map(|(_, line)| line).any(|line| {
            let mut flows = line.flows.iter();
            flows.any(|(hit, peer)| {
                let at = (line.socket.proto, hit.flow.reply.tuple().dst, *peer);
                Some(at) == new.pair()
            })
        });
        if !new.is_sound() {
            EINVAL
        } else if others.iter().any(|l| is_same_local(&l)) {
            EEXIST
        } else if others.iter().any(|l| is_same_pair(&l)) {
            if new.has(CONNECT | ESTABLISHED) {
                EADDRINUSE
            } else {
                EINVAL
            }
        } else if has_tuple && is_new {
            EADDRINUSE
        } else {
            0
        }
    }

    pub fn put(&mut self, own: Option<usize>, mut new: Line) {
        new.diverts_local |= !new.is_mark() && new.has(ACTIVE);
        new.diverts_foreign |= new.is_fixed() && new.has(LISTEN);
        match own {
            Some(n) => self.0[n] = new,
            None => self.0.push(new),
        }
    }

    pub fn assign(
        &mut self,
        socket: &Socket,
        foreign: usize,
        peer: Option<usize>,
        flags: usize,
    ) -> i32 {
        let mut new = Line {
            socket: *socket,
            foreign: end(at(FOREIGN[foreign])),
            peer: peer.map(|n| end(at(PEERS[n]))),
            flags: FLAGS[flags] & !(MARK | APPLIED),
            is_connect_only: false,
            is_orphan: false,
            diverts_local: false,
            diverts_foreign: false,
            owner: OwnerId::NOBODY,
            flows: Vec::new(),
        };
        if new.flags & 8 != 0 {
            return EINVAL;
        }
        if self.of(socket).is_some() {
            return EEXIST;
        }
        let holds =
            |l: &Line| !l.is_orphan && l.foreign == new.foreign && l.socket.proto == socket.proto;
        new.is_connect_only = new.is_fixed() && self.0.iter().any(holds);
        if new.is_connect_only && !socket.reuse {
            return EADDRINUSE;
        }
        let errno = self.errno(None, &new);
        if errno == 0 {
            self.put(None, new);
        }
        errno
    }

    pub fn amend(&mut self, socket: &Socket, change: impl FnOnce(&mut Line)) -> i32 {
        let Some(own) = self.of(socket) else {
            return ENOENT;
        };
        let mut new = self.0[own].clone();
        change(&mut new);
        if new.flags & 8 != 0 {
            return EINVAL;
        }
        let errno = self.errno(Some(own), &new);
        if errno == 0 {
            self.put(Some(own), new);
        }
        errno
    }

    pub fn end(&mut self, socket: &Socket) -> i32 {
        let Some(own) = self.of(socket) else {
            return ENOENT;
        };
        self.0[own].is_orphan = true;
        0
    }
}
