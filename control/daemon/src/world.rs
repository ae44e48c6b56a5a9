//! The box as the registry of sockets sees it: steering, closed sockets, own addresses.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use anyhow::Result;
use pipeline::SharedView;
use registry::{AliveSocket, News, Way};
use wire::{Endpoint, Protocol};
use xdp_prog::{Direction, EndpointMap, Endpoints, SocketMaps, SocketWatch};

use crate::config::{Config, Grant, Whom};

/// So many closed sockets with flows find room, however many flows there may be.
const ORPHANS_MOST: usize = 1 << 20;

/// What steering knows of registrations, the same on all ports.
#[derive(Clone, Debug)]
pub struct Registered {
    /// The endpoints.
    pub endpoints: EndpointMap,
    /// The sockets that they belong to.
    pub sockets: SocketMaps,
}

/// How often sockets are looked through that close without a word.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// The inode of the first cgroup namespace, that of the machine itself (the kernel's
/// `PROC_CGROUP_INIT_INO`).
const MACHINES_CGROUPS: u64 = 0xefff_fffb;

/// Whether the daemon sees only a part of the cgroups: of sockets of the others it is not told
/// that they close.
fn is_apart() -> bool {
    let namespace = std::fs::metadata("/proc/self/ns/cgroup");
    let is_apart = namespace.is_ok_and(|found| found.ino() != MACHINES_CGROUPS);
    if is_apart {
        tracing::warn!(
            "in a cgroup namespace of its own, the daemon learns of closed sockets outside of it \
             some seconds late: run it in the machine's"
        );
    }
    is_apart
}

/// What the registry asks of the box.
pub struct World {
    endpoints: Endpoints,
    watch: SocketWatch,
    view: SharedView,
    /// When to look for closed sockets that nobody tells of, if there may be such.
    next_look: Option<Instant>,
    /// Protocol and port of what always passes.
    management: Vec<(u8, std::ops::RangeInclusive<u16>)>,
}

impl World {
    /// Makes the maps that steering will know, and begins to watch sockets.
    pub fn open(config: &Config, view: SharedView) -> Result<Self> {
        let limits = &config.limits;
        // Those of closed sockets stay for as long as their flows live; a foreign endpoint that
        // is listened to may take a second entry. Beyond that, new registrations are refused.
        let most = 2 * (limits.registrations + limits.flows.min(ORPHANS_MOST));
        let most = u32::try_from(most)?;
        let management = config.steered_management().into_iter();
        Ok(Self {
            endpoints: Endpoints::create(most)?,
            watch: SocketWatch::attach(u32::try_from(config.limits.registrations)?)?,
            view,
            next_look: is_apart().then(Instant::now),
            management: management.map(|entry| (entry.proto, entry.ports)).collect(),
        })
    }

    /// What the ports' programs have to know.
    pub fn endpoints(&self) -> Registered {
        Registered {
            endpoints: self.endpoints.map(),
            sockets: self.watch.maps(),
        }
    }
}

fn socket(at: Endpoint) -> SocketAddrV4 {
    SocketAddrV4::new(at.addr, at.port)
}

const fn direction(way: Way) -> Direction {
    match way {
        Way::Inbound => Direction::Inbound,
        Way::Both => Direction::Both,
    }
}

impl registry::World for World {
    fn divert(&mut self, proto: Protocol, at: Endpoint, way: Way) -> io::Result<()> {
        let diverted = self.endpoints.divert(proto.0, socket(at), direction(way));
        diverted.map_err(io::Error::other)
    }

    fn release(&mut self, proto: Protocol, at: Endpoint, way: Way) {
        if let Err(error) = self.endpoints.release(proto.0, socket(at), direction(way)) {
            // Diverted for longer than needed: workers deliver what nobody claims.
            tracing::error!(%error, "steering keeps an endpoint that is not needed any more");
        }
    }

    fn watch(&mut self, cookie: u64, shows: bool) -> io::Result<()> {
        self.watch.add(cookie, shows).map_err(io::Error::other)
    }

    fn forget(&mut self, cookie: u64) {
        self.watch.remove(cookie);
    }

    fn closed(&mut self, gone: &mut Vec<u64>, most: usize) -> io::Result<News> {
        let told = self.watch.closed(most, |cookie| gone.push(cookie));
        let xdp_prog::News { lost, more } = told.map_err(io::Error::other)?;
        let is_due = self.next_look.is_some_and(|due| Instant::now() >= due);
        if is_due {
            self.next_look = Some(Instant::now() + LOOK_EVERY);
        }
        Ok(News {
            lost: lost || is_due,
            more,
        })
    }

    fn alive(&mut self) -> io::Result<HashMap<u64, AliveSocket>> {
        let alive = sockets::alive()?.into_iter();
        let told = |(cookie, socket): (u64, sockets::Alive)| {
            let sockets::Alive { proto, uid, local } = socket;
            (cookie, AliveSocket { proto, uid, local })
        };
        Ok(alive.map(told).collect())
    }

    fn in_use(&mut self) -> io::Result<HashSet<(u8, SocketAddrV4)>> {
        sockets::in_use()
    }

    fn is_own(&self, addr: Ipv4Addr) -> bool {
        self.view.load().own.contains(&addr)
    }

    fn is_management(&self, proto: Protocol, port: u16) -> bool {
        let covers = |(of, ports): &(u8, std::ops::RangeInclusive<u16>)| {
            *of == proto.0 && ports.contains(&port)
        };
        self.management.iter().any(covers)
    }
}

/// The configuration's grants in the registry's words.
pub fn grants(config: &Config) -> Vec<registry::Grant> {
    let grant = |grant: &Grant| {
        let (uid, gid) = match grant.whom {
            Whom::User(uid) => (Some(uid), None),
            Whom::Group(gid) => (None, Some(gid)),
        };
        registry::Grant {
            uid,
            gid,
            foreign: grant.foreign.clone(),
        }
    };
    config.grants.iter().map(grant).collect()
}
