//! A registry on a made-up box.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use registry::{
    Adopted, AliveSocket, Client, Error, Grant, Registry, RegistryConfig, Row, Socket, Way,
};
use shm::{Access, Operation, Reply, Request};
use tables::{FlowKey, FlowTable, Hit, Kind, NewFlow, OwnerId, Registrations, Side};
use tempfile::TempDir;
use wire::{Endpoint, Protocol, Tuple};

pub use crate::made_up::{MadeUp, State};

pub const EPERM: i32 = 1;
pub const ENOENT: i32 = 2;
pub const EBADF: i32 = 9;
pub const EFAULT: i32 = 14;
pub const EEXIST: i32 = 17;
pub const EINVAL: i32 = 22;
pub const ENOPROTOOPT: i32 = 92;
pub const EADDRINUSE: i32 = 98;
pub const ENOBUFS: i32 = 105;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SECOND: u64 = 1_000_000_000;
/// Where sockets are bound: the box's own.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const OWN: [Ipv4Addr; 3] = [LOCAL, Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::LOCALHOST];
pub const MANAGED: u16 = 22;

pub fn at(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

pub fn end(at: SocketAddrV4) -> Endpoint {
    Endpoint::new(*at.ip(), at.port())
}

/// What must be as before when an operation was refused.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    pub rows: Vec<Row>,
    pub diverted: BTreeMap<(Protocol, Endpoint, Way), u32>,
    pub watched: BTreeMap<u64, bool>,
    pub registered: usize,
    pub flows: usize,
    pub file: Vec<u8>,
}

pub struct Sizes {
    pub registrations: usize,
    pub flows: usize,
    pub owners: u32,
    pub ports: std::ops::RangeInclusive<u16>,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            registrations: 256,
            flows: 256,
            owners: 4096,
            ports: 30_000..=30_063,
        }
    }
}

pub struct Lab {
    pub registry: Registry,
    pub adopted: Adopted,
    pub state: Arc<Mutex<State>>,
    pub flows: Arc<FlowTable>,
    pub table: Arc<Registrations>,
    pub dir: Arc<TempDir>,
    pub now: u64,
    pub client: Client,
    next_cookie: u64,
}

pub fn grants() -> Vec<Grant> {
    let net = |text: &str| vec![text.parse().unwrap()];
    vec![
        Grant {
            uid: Some(13),
            gid: None,
            foreign: net("203.0.113.0/24"),
        },
        Grant {
            uid: None,
            gid: Some(50),
            foreign: net("198.51.100.0/24"),
        },
    ]
}

impl Lab {
    pub fn new() -> Self {
        Self::sized(&Sizes::default())
    }

    pub fn sized(sizes: &Sizes) -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::open(sizes, dir, Arc::default(), grants(), SECOND).unwrap()
    }

    /// A daemon's start on this box.
    pub fn open(
        sizes: &Sizes,
        dir: Arc<TempDir>,
        state: Arc<Mutex<State>>,
        grants: Vec<Grant>,
        now: u64,
    ) -> Result<Self, Error> {
        let flows = Arc::new(FlowTable::new(sizes.flows, sizes.owners, 7));
        let table = Arc::new(Registrations::new(sizes.registrations, 7));
        {
            let mut state = state.lock().unwrap();
            // Steering and watch are the daemon's: they go with it.
            state.diverted.clear();
            state.watched.clear();
            state.news.clear();
        }
        let world = MadeUp {
            state: Arc::clone(&state),
            table: Arc::clone(&table),
        };
        let config = RegistryConfig {
            flows: Arc::clone(&flows),
            table: Arc::clone(&table),
            grants,
            ports: sizes.ports.clone(),
            dir: dir.path().to_owned(),
            now_ns: now,
        };
        let (registry, adopted) = Registry::open(config, Box::new(world))?;
        let next_cookie = state
            .lock()
            .unwrap()
            .alive
            .keys()
            .max()
            .map_or(1000, |n| n + 1);
        Ok(Self {
            registry,
            adopted,
            state,
            flows,
            table,
            dir,
            now,
            client: Client {
                pid: 77,
                uid: 0,
                gids: vec![0],
                command: "proxy".to_owned(),
            },
            next_cookie,
        })
    }

    /// The daemon dies, and another starts a second later.
    pub fn restart(self, grants: Vec<Grant>) -> Self {
        let Self {
            registry,
            state,
            dir,
            now,
            ..
        } = self;
        drop(registry);
        Self::open(&Sizes::default(), dir, state, grants, now + SECOND).unwrap()
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("registrations")
    }

    /// A new socket, bound to the port of [`LOCAL`].
    pub fn socket(&mut self, proto: u8, port: u16) -> Socket {
        self.bound(proto, SocketAddrV4::new(LOCAL, port))
    }

    pub fn bound(&mut self, proto: u8, local: SocketAddrV4) -> Socket {
        self.next_cookie += 1;
        let cookie = self.next_cookie;
        let alive = AliveSocket {
            proto,
            uid: 0,
            local,
        };
        self.state().alive.insert(cookie, alive);
        Socket {
            cookie,
            proto,
            local,
            peer: None,
            reuse: false,
            uid: 0,
        }
    }

    /// The last descriptor of a socket is closed; the kernel tells.
    pub fn close(&mut self, socket: &Socket) {
        let mut state = self.state();
        state.alive.remove(&socket.cookie);
        if state.watched.contains_key(&socket.cookie) {
            state.news.push(socket.cookie);
        }
    }

    pub fn upkeep(&mut self) {
        for _ in 0..1000 {
            if !self.registry.upkeep(self.now) {
                return;
            }
        }
        panic!("upkeep has no end");
    }

    /// Lets the time pass in which a shadow lifts, if no socket is left there.
    pub fn settle(&mut self) {
        self.upkeep();
        self.now += 10 * SECOND;
        self.upkeep();
    }

    pub fn snapshot(&self) -> Snapshot {
        let state = self.state();
        Snapshot {
            rows: self.registry.rows(self.now),
            diverted: state.diverted.clone(),
            watched: state.watched.clone(),
            registered: self.table.counts().0,
            flows: self.flows.counts().live,
            file: self.records(),
        }
    }

    /// The file without what is empty at its end.
    fn records(&self) -> Vec<u8> {
        let mut bytes = std::fs::read(self.file()).unwrap();
        let used = bytes
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        bytes.truncate(used);
        bytes
    }

    /// An operation, without the registry having looked around before.
    pub fn at_once(&mut self, socket: &Socket, request: &Request) -> i32 {
        let reply = self
            .registry
            .answer(&self.client, socket, request, self.now);
        reply.errno
    }

    /// An operation. One that is refused must change nothing, and says nothing but the errno.
    pub fn ask(&mut self, socket: &Socket, request: &Request) -> Reply {
        // What a refused operation may do all the same: notice what has closed.
        self.upkeep();
        let before = self.snapshot();
        let reply = self
            .registry
            .answer(&self.client, socket, request, self.now);
        let counts = self.registry.counts();
        let is_any = counts.live + counts.orphaned > 0;
        assert_eq!(self.table.are_any(), is_any, "the workers know");
        if reply.errno != 0 {
            assert_eq!(reply, Reply::refused(reply.errno));
            assert_eq!(self.snapshot(), before, "refused with {}", reply.errno);
        }
        reply
    }

    pub fn get(&mut self, socket: &Socket, operation: Operation) -> Reply {
        self.ask(socket, &Request::new(operation, Access::Get, 3))
    }

    pub fn set(&mut self, socket: &Socket, request: Request) -> i32 {
        self.ask(socket, &request).errno
    }

    pub fn assign(&mut self, socket: &Socket, foreign: &str) -> i32 {
        self.set(socket, assign(foreign))
    }

    pub fn flags(&mut self, socket: &Socket, flags: u32) -> i32 {
        self.set(socket, set_flags(flags))
    }

    pub fn connect(&mut self, socket: &Socket, peer: &str) -> i32 {
        self.set(socket, connect(peer))
    }

    pub fn alloc(&mut self, socket: &Socket) -> i32 {
        self.set(socket, Request::new(Operation::Alloc, Access::Set, 3))
    }

    pub fn unassign(&mut self, socket: &Socket) -> i32 {
        self.set(socket, Request::new(Operation::Unassign, Access::Set, 3))
    }

    /// What QUERY says, or the errno.
    pub fn query(&mut self, socket: &Socket) -> Result<SocketAddrV4, i32> {
        let reply = self.get(socket, Operation::Query);
        match reply.foreign {
            Some(SocketAddr::V4(foreign)) => Ok(foreign),
            _ => Err(reply.errno),
        }
    }

    pub fn get_flags(&mut self, socket: &Socket) -> Result<u32, i32> {
        let reply = self.get(socket, Operation::Flags);
        if reply.errno == 0 {
            Ok(reply.flags)
        } else {
            Err(reply.errno)
        }
    }

    /// The owner of the only live registration of this local endpoint.
    pub fn owner(&self, socket: &Socket) -> OwnerId {
        let rows = self.registry.rows(self.now);
        let own =
            |row: &&Row| row.local == socket.local && row.proto.0 == socket.proto && !row.is_orphan;
        OwnerId(rows.iter().find(own).expect("a live row").owner)
    }

    /// As a worker makes it of the first packet.
    pub fn flow(&self, kind: Kind, owner: OwnerId, proto: u8, ways: [Way4; 2]) -> Hit {
        let new = NewFlow {
            owner,
            ..new_flow(kind, proto, ways)
        };
        self.flows.insert(&new, self.now).unwrap()
    }
}

/// Nobody's flow.
pub fn new_flow(kind: Kind, proto: u8, [orig, reply]: [Way4; 2]) -> NewFlow {
    let key = |Way4(side, src, dst)| {
        let (src, dst) = (end(at(src)), end(at(dst)));
        let proto = Protocol(proto);
        FlowKey::new(side, &Tuple { proto, src, dst })
    };
    NewFlow {
        orig: key(orig),
        reply: key(reply),
        kind,
        generation: 0,
        owner: OwnerId::NOBODY,
    }
}

/// A direction of a flow as its packets arrive.
#[derive(Clone, Copy)]
pub struct Way4<'a>(pub Side, pub &'a str, pub &'a str);

pub fn assign(foreign: &str) -> Request {
    let foreign = Some(foreign.parse().unwrap());
    Request {
        foreign,
        ..Request::new(Operation::Assign, Access::Set, 3)
    }
}

pub fn assign_flags(foreign: &str, peer: Option<&str>, flags: u32) -> Request {
    Request {
        operation: Operation::AssignFlags,
        peer: peer.map(|peer| peer.parse().unwrap()),
        flags,
        ..assign(foreign)
    }
}

pub fn set_flags(flags: u32) -> Request {
    Request {
        flags,
        ..Request::new(Operation::Flags, Access::Set, 3)
    }
}

pub fn connect(peer: &str) -> Request {
    let peer = Some(peer.parse().unwrap());
    Request {
        peer,
        ..Request::new(Operation::Connect, Access::Set, 3)
    }
}

/// Every way in which an endpoint is diverted, for short comparisons.
pub fn diverted(lab: &Lab) -> Vec<(String, Way, u32)> {
    let state = lab.state();
    let each = state.diverted.iter();
    each.map(|((_, at, way), users)| (at.to_string(), *way, *users))
        .collect()
}
