//! Two clients of one registry: one whose registrations stand, and one that may ask for
//! anything about its own sockets.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};

use registry::{AliveSocket, Client, Row, Socket, flags};
use shm::{Access, Operation, Reply, Request};
use tables::{FlowId, FlowKey, Kind, NewFlow, OwnerId, Side};
use tempfile::TempDir;
use wire::{Endpoint, Tuple};

use crate::made_up::{self, Daemon, ENOUGH, GROUP, OWN, Room, Steering, USER, end};

const EBADF: i32 = 9;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// The cookie of the first socket of the client that asks for anything.
pub(crate) const FIRST_COOKIE: u64 = 100;
/// Few, so that there can be no room.
const ROOM: Room = Room {
    registrations: 8,
    owners: 12,
    ..ENOUGH
};

const fn v4(a: u8, b: u8, c: u8, d: u8, port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port)
}

/// What the other has registered, for TCP and UDP.
const FOREIGN: SocketAddrV4 = v4(203, 0, 113, 5, 2121);
const PEER: SocketAddrV4 = v4(192, 0, 2, 7, 80);

/// Endpoints that requests name.
pub(crate) const ENDS: [Option<SocketAddr>; 16] = [
    None,
    Some(SocketAddr::V4(v4(203, 0, 113, 6, 2121))),
    Some(SocketAddr::V4(v4(203, 0, 113, 6, 0))),
    Some(SocketAddr::V4(FOREIGN)),
    Some(SocketAddr::V4(PEER)),
    Some(SocketAddr::V4(v4(0, 0, 0, 0, 0))),
    Some(SocketAddr::V4(v4(203, 0, 113, 7, 80))),
    Some(SocketAddr::V4(v4(198, 51, 100, 7, 53))),
    Some(SocketAddr::V4(v4(10, 0, 0, 1, 5))),
    Some(SocketAddr::V4(v4(10, 0, 0, 1, 50))),
    Some(SocketAddr::V4(v4(8, 8, 8, 8, 53))),
    Some(SocketAddr::V4(v4(224, 0, 0, 1, 9))),
    Some(SocketAddr::V4(v4(127, 0, 0, 1, 80))),
    Some(SocketAddr::V4(v4(192, 0, 2, 8, 0))),
    Some(SocketAddr::V6(std::net::SocketAddrV6::new(
        Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0xcb00, 0x7108),
        443,
        0,
        0,
    ))),
    Some(SocketAddr::V6(std::net::SocketAddrV6::new(
        Ipv6Addr::LOCALHOST,
        80,
        0,
        0,
    ))),
];

/// Where sockets are bound.
const LOCALS: [SocketAddrV4; 8] = [
    v4(10, 0, 0, 1, 5),
    v4(10, 0, 0, 1, 6),
    v4(10, 0, 0, 2, 5),
    v4(10, 0, 0, 1, 50),
    v4(0, 0, 0, 0, 7),
    v4(10, 0, 0, 1, 22),
    v4(203, 0, 113, 200, 5),
    v4(0, 0, 0, 0, 0),
];
/// How many descriptors the client has.
const DESCRIPTORS: i32 = 64;

/// What must be as before when an operation was refused.
type Shown = (Vec<Row>, Steering, BTreeMap<u64, bool>);

pub(crate) struct Strangers {
    daemon: Daemon,
    dir: TempDir,
    client: Client,
    sockets: BTreeMap<i32, Socket>,
    /// Sockets with another local endpoint than they had when they were last answered.
    moved: Vec<u64>,
    flows: Vec<FlowId>,
    next_cookie: u64,
    other: Client,
    others: Vec<Socket>,
    /// What all looked like with the other's registrations alone.
    before: Shown,
    told_before: Vec<Reply>,
}

impl Strangers {
    /// The other registers: a listener, a connection under way from the same foreign endpoint,
    /// and a listener for datagrams.
    pub(crate) fn open() -> Self {
        let dir = made_up::folder();
        let mut daemon = match Daemon::start(dir.path(), Default::default(), ROOM) {
            Ok(daemon) => daemon,
            Err(error) => panic!("no registry: {error}"),
        };
        let other = client(0, 77);
        let others = [(TCP, 50), (TCP, 51), (UDP, 52)].map(|(proto, port)| Socket {
            cookie: u64::from(port),
            proto,
            local: SocketAddrV4::new(OWN[0], port),
            peer: None,
            reuse: true,
            uid: 0,
        });
        let uses = [flags::LISTEN, flags::CONNECT, flags::LISTEN | flags::UNIDIR];
        for (socket, flags) in others.iter().zip(uses) {
            lives(&daemon, socket);
            let request = Request {
                flags,
                foreign: Some(FOREIGN.into()),
                peer: (flags == flags::CONNECT).then_some(PEER.into()),
                ..Request::new(Operation::AssignFlags, Access::Set, 3)
            };
            let now_ns = daemon.now_ns;
            let reply = daemon.registry.answer(&other, socket, &request, now_ns);
            assert_eq!(reply.errno, 0, "{request:?}");
        }
        let mut strangers = Self {
            daemon,
            dir,
            client: client(USER, 78),
            sockets: BTreeMap::new(),
            moved: Vec::new(),
            flows: Vec::new(),
            next_cookie: FIRST_COOKIE,
            other,
            others: others.to_vec(),
            before: Shown::default(),
            told_before: Vec::new(),
        };
        let rows = strangers.daemon.rows();
        for row in &rows {
            strangers.flow(row, row.peer.unwrap_or(v4(192, 0, 2, 9, 40_000)));
        }
        assert_eq!(strangers.flows.len(), rows.len());
        strangers.flows.clear();
        strangers.told_before = strangers.told();
        strangers.before = strangers.shown();
        assert_eq!(strangers.before.0.len(), others.len());
        strangers
    }

    /// What the server does with a request: the kernel's facts of the socket, then the registry.
    pub(crate) fn answer(&mut self, request: &Request) -> Reply {
        let Some(socket) = self.fetch(request.fd) else {
            return Reply::refused(EBADF);
        };
        // What has closed is noticed even by who is refused.
        let is_quiet = {
            let books = self.daemon.books();
            books.news.is_empty() && !books.is_news_lost && !self.moved.contains(&socket.cookie)
        };
        let before = is_quiet.then(|| self.shown());
        let now_ns = self.daemon.now_ns;
        let client = &self.client;
        let reply = self
            .daemon
            .registry
            .answer(client, &socket, request, now_ns);
        if reply.errno == 0 {
            self.moved.retain(|cookie| *cookie != socket.cookie);
            let facts = (reply.cookie, reply.proto, reply.local);
            let wanted = (socket.cookie, socket.proto, Some(socket.local.into()));
            assert_eq!(facts, wanted);
            let names = |said: u64, own: u64| said == 0 || said == own;
            assert!(
                names(request.cookie, socket.cookie),
                "another's: {request:?}"
            );
            assert!(
                names(request.proto.into(), socket.proto.into()),
                "{request:?}"
            );
        } else {
            assert_eq!(reply, Reply::refused(reply.errno));
            if let Some(before) = before {
                assert_eq!(self.shown(), before, "refused: {request:?}");
            }
        }
        reply
    }

    /// The socket of a descriptor; its number says what it is.
    fn fetch(&mut self, fd: i32) -> Option<Socket> {
        let number = usize::try_from(fd).ok().filter(|_| fd < DESCRIPTORS)?;
        if let Some(socket) = self.sockets.get(&fd) {
            return Some(*socket);
        }
        self.next_cookie += 1;
        let socket = Socket {
            cookie: self.next_cookie - 1,
            proto: if number & 1 == 0 { TCP } else { UDP },
            local: LOCALS[number >> 1 & 7],
            peer: (number & 32 != 0).then_some(PEER),
            reuse: number & 16 != 0,
            uid: USER,
        };
        lives(&self.daemon, &socket);
        self.sockets.insert(fd, socket);
        Some(socket)
    }

    /// Something happens on the box.
    pub(crate) fn change(&mut self, what: u8, which: u8) {
        let fd = i32::from(which) % DESCRIPTORS;
        match what & 7 {
            0 => {
                let cookie = self.sockets.remove(&fd).map(|socket| socket.cookie);
                self.daemon.close(cookie);
            }
            1 => {
                if let Some(socket) = self.sockets.remove(&fd) {
                    let mut books = self.daemon.books();
                    books.alive.remove(&socket.cookie);
                    books.is_news_lost = true;
                }
            }
            2 => self.rebind(fd, usize::from(which >> 6)),
            3 => {
                if let Some(socket) = self.sockets.get_mut(&fd) {
                    socket.peer = Some(PEER);
                }
            }
            4 => {
                let rows = self.daemon.rows();
                let own = |row: &&Row| !self.before.0.iter().any(|old| old.owner == row.owner);
                let own: Vec<&Row> = rows.iter().filter(own).collect();
                if let Some(row) = own.get(usize::from(which >> 1) % own.len().max(1)) {
                    let from = if which & 1 == 0 {
                        PEER
                    } else {
                        v4(192, 0, 2, 8, 81)
                    };
                    self.flow(row, row.peer.unwrap_or(from));
                }
            }
            5 => self.end_flows(),
            6 => self.daemon.upkeep(),
            _ => self.daemon.now_ns += u64::from(which) * 10_000_000,
        }
    }

    /// A socket that could not connect gets another port.
    fn rebind(&mut self, fd: i32, nth: usize) {
        if let Some(socket) = self.sockets.get_mut(&fd) {
            socket.local = LOCALS[nth];
            self.moved.push(socket.cookie);
            lives(&self.daemon, socket);
        }
    }

    /// A worker makes a flow of a registration, as of its first packet.
    fn flow(&mut self, row: &Row, peer: SocketAddrV4) {
        let (local, foreign, peer) = (end(row.local), end(row.foreign), end(peer));
        let key = |side, src: Endpoint, dst: Endpoint| {
            let proto = row.proto;
            FlowKey::new(side, &Tuple { proto, src, dst })
        };
        let inside = key(Side::Host, local, peer);
        let outside = key(Side::Wire, peer, foreign);
        let (kind, orig, reply) = if row.flags & flags::CONNECT != 0 {
            (Kind::Connect, inside, outside)
        } else if row.flags & flags::LISTEN != 0 {
            (Kind::Listen, outside, inside)
        } else {
            return;
        };
        let new = NewFlow {
            orig,
            reply,
            kind,
            generation: 0,
            owner: OwnerId(row.owner),
        };
        // It may be there, or have no right to be.
        if let Ok(hit) = self.daemon.flows.insert(&new, self.daemon.now_ns) {
            self.flows.push(hit.id);
        }
    }

    fn end_flows(&mut self) {
        for id in self.flows.drain(..) {
            self.daemon.flows.remove(id, self.daemon.now_ns);
        }
        self.daemon.upkeep();
    }

    fn shown(&self) -> Shown {
        let rows = self.daemon.rows();
        let books = self.daemon.books();
        (rows, books.diverted.clone(), books.watched.clone())
    }

    /// What the other gets to hear about its own.
    fn told(&mut self) -> Vec<Reply> {
        let now_ns = self.daemon.now_ns;
        let mut told = Vec::new();
        for socket in &self.others {
            for operation in [Operation::Query, Operation::Flags] {
                let request = Request::new(operation, Access::Get, 3);
                let registry = &mut self.daemon.registry;
                told.push(registry.answer(&self.other, socket, &request, now_ns));
            }
        }
        told
    }

    /// The books agree, and the other's registrations are as they were.
    pub(crate) fn balance(&self) {
        self.daemon.balance();
        let rows = self.daemon.rows();
        for row in &self.before.0 {
            assert!(
                rows.contains(row),
                "another's {row:?} is not among {rows:?}"
            );
        }
        let books = self.daemon.books();
        for (at, users) in &self.before.1 {
            assert!(books.diverted.get(at) >= Some(users), "another's {at:?}");
        }
        for (cookie, shows) in &self.before.2 {
            assert_eq!(books.watched.get(cookie), Some(shows), "another's {cookie}");
        }
    }

    /// The client ends: nothing is left of it, here and in the file.
    pub(crate) fn leave(mut self) {
        let own = std::mem::take(&mut self.sockets).into_values();
        self.daemon.close(own.map(|socket| socket.cookie));
        // All sockets are asked for but once a second.
        self.daemon.now_ns += 2_000_000_000;
        self.daemon.upkeep();
        self.end_flows();
        // Time for the kernel to say the last word.
        for _ in 0..2 {
            self.daemon.now_ns += 10_000_000_000;
            self.daemon.upkeep();
        }
        self.balance();
        assert_eq!(self.shown(), self.before);
        assert_eq!(self.told(), self.told_before);
        let alive = std::mem::take(&mut self.daemon.books().alive);
        let again = Daemon::start(self.dir.path(), alive, ROOM);
        let again = again.unwrap_or_else(|error| panic!("no second start: {error}"));
        assert_eq!(
            (again.adopted.kept, again.adopted.gone),
            (self.others.len(), 0)
        );
        assert_eq!(again.books().diverted, self.before.1);
    }
}

fn client(uid: u32, pid: u32) -> Client {
    Client {
        pid,
        uid,
        gids: vec![1, GROUP],
        command: "proxy".to_owned(),
    }
}

/// The kernel knows this socket.
fn lives(daemon: &Daemon, socket: &Socket) {
    let alive = AliveSocket {
        proto: socket.proto,
        uid: socket.uid,
        local: socket.local,
    };
    daemon.books().alive.insert(socket.cookie, alive);
}
