//! The box's own TCP connections, redirected at connect().
//!
//! Invariant: decisions are replaced whole: each connect() is judged by the old or by the new ones, and
//! after [`Capture::set`] only by the new. Never here: rules, or who listens where.

use std::collections::HashSet;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;

use libbpf_rs::{
    ErrorKind, Link, MapCore, MapFlags, MapHandle, MapType, Object, OpenObject, ProgramType,
};
use libbpf_sys::bpf_map_create_opts;

use crate::object::Blueprint;
use crate::senders::{SocketMaps, ended_of};
use crate::{Error, counters, records as limits, sockets};

mod records;

pub use records::{CaptureNode, CaptureOtherwise, CaptureRefusal, CaptureStep, CaptureTest};

/// In the order of `enum counter` in `bpf/capture.bpf.c`.
const CAPTURE_COUNTERS: [&str; 8] = [
    "capture_redirected",
    "capture_dropped",
    "capture_rejected",
    "capture_no_listener",
    "capture_proxy_passed",
    "capture_off_device",
    "capture_full",
    "capture_stuck",
];

static BLUEPRINT: Blueprint = Blueprint {
    name: "capture",
    elf: include_bytes!(concat!(env!("OUT_DIR"), "/capture.bpf.o")),
    counters: &CAPTURE_COUNTERS,
};

/// In the order in which they are attached: what a redirected socket leaves behind is cleared away from
/// the first.
const PROGRAMS: [&str; 7] = [
    "xtp_released",
    "xtp_peer4",
    "xtp_peer6",
    "xtp_bound4",
    "xtp_bound6",
    "xtp_connect4",
    "xtp_connect6",
];

/// The kernel's table of buckets has an end.
const MOST: u32 = 1 << 24;
/// `MAX_LISTENERS` and `MAX_PROXIES` of the program.
const MOST_KNOWN: usize = 65536;
/// The key of the only value of an array.
const FIRST: [u8; 4] = [0; 4];
/// All other processes of a pid namespace descend from this one.
const INIT: u32 = 1;
/// Values of the map `proxies`.
const WITH_DESCENDANTS: u32 = 1;
const ALONE: u32 = 2;

/// A proxy that the rules may redirect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CaptureListener {
    /// Where it listens; address 0.0.0.0: at any.
    pub at: SocketAddrV4,
    /// The processes that hold the listening socket.
    pub pids: Vec<u32>,
}

/// Redirects TCP connections of programs whose sockets are in the network namespace of the thread that
/// attached it, and whose control group is below the root that it saw. Held by descriptors: with
/// the process it is gone, and connections go where they want.
pub struct Capture {
    in_force: MapHandle,
    listeners: MapHandle,
    proxies: MapHandle,
    targets: MapHandle,
    captured: MapHandle,
    released: MapHandle,
    counters: MapHandle,
    /// The decisions in force and how many nodes they have.
    decisions: Option<(MapHandle, usize)>,
    known: HashSet<SocketAddrV4>,
    known_proxies: HashSet<u32>,
    known_targets: HashSet<SocketAddrV4>,
    // Before the object, whose programs they run.
    _links: Vec<Link>,
    _object: Object,
}

impl Capture {
    /// Begins, without any decisions. At most so many redirected sockets are open at a time;
    /// a connection beyond that fails with ENOBUFS.
    pub fn attach(most: u32) -> Result<Self, Error> {
        Self::begin(most, None)
    }

    /// The same; what registered sockets open is never redirected.
    pub fn attach_beside(most: u32, registered: &SocketMaps) -> Result<Self, Error> {
        Self::begin(most, Some(registered))
    }

    fn begin(most: u32, registered: Option<&SocketMaps>) -> Result<Self, Error> {
        limits::limit(|| "captured sockets".into(), most as usize, MOST as usize)?;
        let mut open = BLUEPRINT.open()?;
        prepare(&mut open, most.max(1), registered)?;
        let object = open.load().map_err(|error| explain(&error))?;
        let map = |name, bytes| BLUEPRINT.map(&object, name, bytes);
        Ok(Self {
            in_force: map("in_force", 4)?,
            listeners: map("listeners", 1)?,
            proxies: map("proxies", 4)?,
            targets: map("targets", 1)?,
            captured: map("captured", records::ADDRESS_BYTES)?,
            released: map("released", records::ADDRESS_BYTES)?,
            counters: map("counters", 8)?,
            decisions: None,
            known: HashSet::new(),
            known_proxies: HashSet::new(),
            known_targets: HashSet::new(),
            _links: links(&object)?,
            _object: object,
        })
    }

    /// Puts decisions in force in one step; without any, nothing is redirected. A refusal
    /// changes nothing.
    pub fn set(&mut self, nodes: &[CaptureNode]) -> Result<(), Error> {
        let what = "putting decisions about connections in force";
        let wrong = |error: &libbpf_rs::Error| Error::from_libbpf(what, error);
        if nodes.is_empty() {
            return match self.in_force.delete(&FIRST) {
                Err(error) if error.kind() != ErrorKind::NotFound => Err(wrong(&error)),
                _ => {
                    self.decisions = None;
                    self.keep_targets(&HashSet::new())
                }
            };
        }
        let program = records::program(nodes)?;
        let targets = records::targets(nodes);
        // Who binds there is known before anything is redirected to it.
        for new in &targets {
            put(&self.targets, &records::address(*new), &[1])?;
            self.known_targets.insert(*new);
        }
        let opts = bpf_map_create_opts {
            sz: size_of::<bpf_map_create_opts>() as libbpf_sys::size_t,
            ..Default::default()
        };
        let bytes = records::PROGRAM_BYTES as u32;
        let decisions =
            MapHandle::create(MapType::Array, Some("xtp_decisions"), 4, bytes, 1, &opts)
                .map_err(|error| wrong(&error))?;
        decisions
            .update(&FIRST, &program, MapFlags::ANY)
            .and_then(|()| {
                let fd = decisions.as_fd().as_raw_fd().to_ne_bytes();
                self.in_force.update(&FIRST, &fd, MapFlags::ANY)
            })
            .map_err(|error| wrong(&error))?;
        self.decisions = Some((decisions, nodes.len()));
        self.keep_targets(&targets)
    }

    fn keep_targets(&mut self, targets: &HashSet<SocketAddrV4>) -> Result<(), Error> {
        let gone: Vec<_> = self.known_targets.difference(targets).copied().collect();
        for gone in gone {
            remove(&self.targets, &records::address(gone))?;
            self.known_targets.remove(&gone);
        }
        Ok(())
    }

    /// How many connections came by each node since it was put in force, in the order of the nodes;
    /// 0 for those that do not count.
    pub fn hits(&self) -> Result<Vec<u64>, Error> {
        let Some((decisions, nodes)) = &self.decisions else {
            return Ok(Vec::new());
        };
        let program = decisions.lookup(&FIRST, MapFlags::ANY).map_err(|error| {
            Error::from_libbpf("reading the counters of captured connections", &error)
        })?;
        Ok(records::hits(&program.unwrap_or_default(), *nodes))
    }

    /// Tells all who listen, in the place of those told before. Where nobody listens, nothing is
    /// redirected to; and what the processes that do and their descendants open never is. A process that
    /// binds where the rules redirect to counts as one of these at once, for ten seconds.
    pub fn set_listeners(&mut self, listeners: &[CaptureListener]) -> Result<(), Error> {
        let known: HashSet<_> = listeners.iter().map(|listener| listener.at).collect();
        let proxies: HashSet<u32> = listeners
            .iter()
            .flat_map(|listener| listener.pids.iter().copied())
            .collect();
        for (what, asked) in [
            ("proxies' endpoints", &known.len()),
            ("proxies", &proxies.len()),
        ] {
            limits::limit(|| format!("{what} to redirect to"), *asked, MOST_KNOWN)?;
        }
        // A proxy is known before connections are redirected to it, and until they no longer are.
        for gone in self.known.difference(&known).copied().collect::<Vec<_>>() {
            remove(&self.listeners, &records::address(gone))?;
            self.known.remove(&gone);
        }
        for gone in self
            .known_proxies
            .difference(&proxies)
            .copied()
            .collect::<Vec<_>>()
        {
            remove(&self.proxies, &gone.to_ne_bytes())?;
            self.known_proxies.remove(&gone);
        }
        for new in proxies {
            let kind = if new == INIT { ALONE } else { WITH_DESCENDANTS };
            put(&self.proxies, &new.to_ne_bytes(), &kind.to_ne_bytes())?;
            self.known_proxies.insert(new);
        }
        for new in known {
            put(&self.listeners, &records::address(new), &[1])?;
            self.known.insert(new);
        }
        Ok(())
    }

    /// Where the socket with this cookie wanted to go, if it was redirected. It may have been
    /// closed; of those that have, as many are known as may be open.
    pub fn original(&self, cookie: u64) -> Result<Option<SocketAddrV4>, Error> {
        // One that closes goes into `released` before it leaves `captured`.
        for map in [&self.captured, &self.released] {
            let found = map
                .lookup(&cookie.to_ne_bytes(), MapFlags::ANY)
                .map_err(|error| {
                    Error::from_libbpf(format!("asking where socket {cookie} wanted to go"), &error)
                })?;
            if let Some(found) = found {
                return Ok(records::address_of(&found));
            }
        }
        Ok(None)
    }

    /// Forgets a closed socket before its time. One that is open stays known: its program may ask
    /// who its peer is.
    pub fn forget(&self, cookie: u64) -> Result<(), Error> {
        remove(&self.released, &cookie.to_ne_bytes())
    }

    /// What became of connections that a rule took, each under its name.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        counters::read(&self.counters, BLUEPRINT.counters)
    }
}

fn prepare(open: &mut OpenObject, most: u32, registered: Option<&SocketMaps>) -> Result<(), Error> {
    let config = [
        inode("/proc/thread-self/ns/net")?,
        inode("/proc/self/ns/pid")?,
    ];
    let config = config.map(u32::to_ne_bytes).concat();
    let mut prepared = 0;
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        let done = match name.as_str() {
            "captured" => map.set_max_entries(most),
            "released" => map.set_max_entries(ended_of(most)),
            "ended" => map.set_autocreate(false),
            "watched" => registered.map_or(Ok(()), |maps| map.reuse_fd(maps.watched())),
            _ if name.ends_with(".rodata") => map.set_initial_value(&config),
            _ => continue,
        };
        done.map_err(|_| BLUEPRINT.lacks(&format!("map \"{name}\"")))?;
        prepared += 1;
    }
    if prepared != 5 {
        return Err(BLUEPRINT.lacks("maps and settings"));
    }
    Ok(())
}

/// A namespace's number; the kernel's own is as wide as this.
fn inode(namespace: &str) -> Result<u32, Error> {
    let found = std::fs::metadata(namespace)
        .map_err(|error| Error::from_io(format!("looking at {namespace}"), error))?;
    u32::try_from(found.ino()).map_err(|_| Error::Invalid {
        what: format!(
            "{namespace} has the number {}, which is no namespace's",
            found.ino()
        ),
    })
}

fn links(object: &Object) -> Result<Vec<Link>, Error> {
    let root = sockets::root("cgroup2")?;
    let mut links = Vec::with_capacity(PROGRAMS.len());
    for name in PROGRAMS {
        let program = object
            .progs_mut()
            .find(|program| program.name() == name)
            .ok_or_else(|| BLUEPRINT.lacks(&format!("program \"{name}\"")))?;
        let link = program.attach_cgroup(root.as_raw_fd()).map_err(|error| {
            sockets::company("capturing connections at the root control group", &error)
        })?;
        links.push(link);
    }
    Ok(links)
}

fn explain(error: &libbpf_rs::Error) -> Error {
    let what = "loading the BPF object \"capture\"";
    let features = [
        (
            "programs at connect() (CONFIG_CGROUP_BPF)",
            ProgramType::CgroupSockAddr.is_supported(),
        ),
        ("hash maps", MapType::LruHash.is_supported()),
    ];
    let mut missing: Vec<&str> = features
        .into_iter()
        .filter(|(_, supported)| matches!(supported, Ok(false)))
        .map(|(feature, _)| feature)
        .collect();
    if !std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        missing.push("its own types (CONFIG_DEBUG_INFO_BTF)");
    }
    if missing.is_empty() {
        return Error::from_libbpf(what, error);
    }
    Error::Unsupported {
        what: format!("{what}: the kernel lacks {}", missing.join(" and ")),
        cure: "use a kernel of 5.18 or later with these, or a ruleset without rules in the OUTPUT chain of the tproxy table".into(),
    }
}

fn put(map: &MapHandle, key: &[u8], value: &[u8]) -> Result<(), Error> {
    map.update(key, value, MapFlags::ANY)
        .map_err(|error| Error::from_libbpf("telling who listens for captured connections", &error))
}

fn remove(map: &MapHandle, key: &[u8]) -> Result<(), Error> {
    match map.delete(key) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::from_libbpf(
            "telling who no longer listens for captured connections",
            &error,
        )),
        _ => Ok(()),
    }
}
