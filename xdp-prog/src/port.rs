//! The programs of one NIC: steering, slow lane, egress.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::attach::Wanted;
use crate::counters::PORT_COUNTERS;
use crate::endpoints::EndpointMap;
use crate::object::{Blueprint, DryRun, Loaded};
use crate::records::{
    self, GUARD_BYTES, Guard, MANAGEMENT_BYTES, MAX_ADDRESSES, Mac, Management, TAKEN_BYTES, Taken,
};
use crate::senders::SocketMaps;
use crate::xdp::Mode;
use crate::{Error, stale};

static BLUEPRINT: Blueprint = Blueprint {
    name: "port",
    elf: include_bytes!(concat!(env!("OUT_DIR"), "/port.bpf.o")),
    counters: &PORT_COUNTERS,
};

/// What is fixed for a port's programs when they are loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortConfig {
    /// The interface's name, for messages.
    pub interface: String,
    /// Its index.
    pub ifindex: u32,
    /// Its hardware address. Frames to another one are the kernel's.
    pub mac: Mac,
    /// Native or generic.
    pub mode: Mode,
    /// How many queues have sockets.
    pub queues: u32,
    /// Whether a queue without a socket passes frames (open) or drops them (closed).
    pub open: bool,
    /// The longest frame that a chunk of the region takes.
    pub max_frame_bytes: u32,
    /// The index of the host port's kernel side, xtp0.
    pub host_ifindex: u32,
    /// Mark: destination of slow-lane frames on the host port.
    pub from_wire: Mac,
    /// Mark: source of frames that were diverted on their way out. The sixth byte of this and of
    /// the next two is not a mark's: it says of which of the guard's owners the sender is.
    pub from_stack: Mac,
    /// Mark: the same of the first packets that a socket which is not watched sends from an
    /// endpoint that is diverted.
    pub from_stranger: Mac,
    /// Mark: the same of frames that only the guard diverts.
    pub from_box: Mac,
    /// Secret: source of what the box re-injected into a generic port.
    pub reinjected: Mac,
}

/// Which program of a port a dry run is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortHook {
    /// XDP.
    Steer,
    /// tc egress.
    Egress,
    /// tc ingress, in generic mode.
    SlowLane,
    /// tc ingress, while the XDP program changes its mode.
    Gap,
}

impl PortHook {
    fn program(self) -> &'static str {
        match self {
            Self::Steer => "xtp_steer",
            Self::Egress => "xtp_egress",
            Self::SlowLane => "xtp_slow_lane",
            Self::Gap => "xtp_gap",
        }
    }
}

/// The loaded programs of one NIC, with maps of their own. Dropping it leaves
/// what is attached attached: with the sockets gone, `open` decides.
pub struct PortProgram {
    config: PortConfig,
    loaded: Loaded,
    own4: MapHandle,
    own6: MapHandle,
    management: MapHandle,
    guard: MapHandle,
    addresses4: HashMap<Ipv4Addr, Vec<Taken>>,
    addresses6: HashSet<Ipv6Addr>,
    may_remove_clsact: bool,
}

impl PortProgram {
    /// Loads the programs; nothing is attached yet. What `endpoints` and `sockets` say counts
    /// from the first frame on.
    pub fn load(
        config: &PortConfig,
        endpoints: &EndpointMap,
        sockets: &SocketMaps,
    ) -> Result<Self, Error> {
        if config.mode == Mode::Offloaded {
            let what = format!(
                "{}: XDP is attached native or generic, not offloaded",
                config.interface
            );
            return Err(Error::Invalid { what });
        }
        let shared = [
            ("endpoints", endpoints.as_fd()),
            ("watched", sockets.watched()),
            ("ended", sockets.ended()),
        ];
        let loaded = BLUEPRINT.load(&records::port_config(config), config.queues, &shared)?;
        Ok(Self {
            own4: loaded.map("own4", TAKEN_BYTES)?,
            own6: loaded.map("own6", 1)?,
            management: loaded.map("management", MANAGEMENT_BYTES)?,
            guard: loaded.map("guard", GUARD_BYTES)?,
            config: config.clone(),
            loaded,
            addresses4: HashMap::new(),
            addresses6: HashSet::new(),
            may_remove_clsact: false,
        })
    }

    /// Gives a queue its AF_XDP socket. The map keeps it until the socket closes.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        self.loaded.set_socket(queue, socket)
    }

    /// Sets the box's own addresses with what is taken of each. New and changed
    /// ones first, then removals; an address changes in one step.
    pub fn set_addresses(
        &mut self,
        v4: &[(Ipv4Addr, Vec<Taken>)],
        v6: &[Ipv6Addr],
    ) -> Result<(), Error> {
        records::limit(|| "own IPv4 addresses".into(), v4.len(), MAX_ADDRESSES)?;
        records::limit(|| "own IPv6 addresses".into(), v6.len(), MAX_ADDRESSES)?;
        let records4: Vec<(Ipv4Addr, &Vec<Taken>, Vec<u8>)> = v4
            .iter()
            .map(|(addr, ranges)| Ok((*addr, ranges, records::taken(*addr, ranges)?)))
            .collect::<Result<_, Error>>()?;
        for (addr, ranges, record) in records4 {
            if self.addresses4.get(&addr) != Some(ranges) {
                put(&self.own4, &addr.octets(), &record, &addr)?;
                self.addresses4.insert(addr, ranges.clone());
            }
        }
        for addr in v6 {
            if !self.addresses6.contains(addr) {
                put(&self.own6, &addr.octets(), &[1], addr)?;
                self.addresses6.insert(*addr);
            }
        }
        for addr in missing(self.addresses4.keys(), v4.iter().map(|(addr, _)| addr)) {
            remove(&self.own4, &addr.octets(), &addr)?;
            self.addresses4.remove(&addr);
        }
        for addr in missing(self.addresses6.iter(), v6.iter()) {
            remove(&self.own6, &addr.octets(), &addr)?;
            self.addresses6.remove(&addr);
        }
        Ok(())
    }

    /// Sets what always passes natively, all of it in one step.
    pub fn set_management(&self, entries: &[Management]) -> Result<(), Error> {
        let record = records::management(entries)?;
        put(
            &self.management,
            &0u32.to_ne_bytes(),
            &record,
            &"the management entries",
        )
    }

    /// Says whether all that is the box's own is diverted, and which users marks tell apart, in
    /// one step. At first it is not, and they tell none.
    pub fn set_guard(&self, guard: &Guard) -> Result<(), Error> {
        let record = records::guard(guard)?;
        put(&self.guard, &0u32.to_ne_bytes(), &record, &"the guard")
    }

    /// Attaches: the tc filters, then XDP, which is to find all sockets in place.
    /// Stale programs of ours are replaced; a step that fails undoes the others. While a
    /// change of mode leaves the interface without XDP, a filter drops transit.
    pub fn attach(&mut self) -> Result<(), Error> {
        let steer = self.loaded.program(PortHook::Steer.program())?;
        let egress = self.loaded.program(PortHook::Egress.program())?;
        let slow_lane = self.loaded.program(PortHook::SlowLane.program())?;
        let gap = self.loaded.program(PortHook::Gap.program())?;
        let generic = self.config.mode == Mode::Generic;
        self.may_remove_clsact = Wanted {
            interface: &self.config.interface,
            ifindex: self.config.ifindex,
            ingress: generic.then(|| slow_lane.as_fd()),
            egress: Some(egress.as_fd()),
            gap: Some(gap.as_fd()),
            xdp: Some((self.config.mode, steer.as_fd())),
        }
        .attach()?;
        Ok(())
    }

    /// Removes the programs from the interface, and clsact if it is ours and unused.
    pub fn detach(&self) -> Result<(), Error> {
        stale::detach(
            &self.config.interface,
            self.config.ifindex,
            self.may_remove_clsact,
        )
        .map(drop)
    }

    /// Every counter by name. Each arriving frame moved exactly one of those
    /// before `slow_lane_sent`.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        self.loaded.counters()
    }

    /// What a program makes of a frame on queue 0. Counts like a real one.
    pub fn dry_run(&self, hook: PortHook, frame: &[u8]) -> Result<DryRun, Error> {
        self.loaded.dry_run(hook.program(), frame)
    }
}

/// Those of `have` that `want` lacks.
fn missing<'a, T: Copy + Eq + Hash + 'a>(
    have: impl Iterator<Item = &'a T>,
    want: impl Iterator<Item = &'a T>,
) -> Vec<T> {
    let want: HashSet<&T> = want.collect();
    have.filter(|item| !want.contains(item)).copied().collect()
}

fn put(
    map: &MapHandle,
    key: &[u8],
    value: &[u8],
    what: &dyn std::fmt::Display,
) -> Result<(), Error> {
    map.update(key, value, MapFlags::ANY).map_err(|error| {
        Error::from_libbpf(format!("telling the steering program of {what}"), &error)
    })
}

fn remove(map: &MapHandle, key: &[u8], what: &dyn std::fmt::Display) -> Result<(), Error> {
    map.delete(key).map_err(|error| {
        Error::from_libbpf(format!("taking {what} from the steering program"), &error)
    })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::{Endpoints, SocketWatch};

    /// Instructions that the verifier may go through for one program, which takes it some 50 ms.
    const MOST_VERIFIED: u64 = 60_000;

    fn config() -> PortConfig {
        PortConfig {
            interface: "test".into(),
            ifindex: 1,
            mac: [2; 6],
            mode: Mode::Native,
            queues: 1,
            open: false,
            max_frame_bytes: 2048,
            host_ifindex: 1,
            from_wire: [2; 6],
            from_stack: [2; 6],
            from_stranger: [2; 6],
            from_box: [2; 6],
            reinjected: [2; 6],
        }
    }

    /// Each port's start waits for it. A list that is gone through inline costs seconds.
    #[test]
    fn the_verifier_is_soon_done() {
        let endpoints = Endpoints::create(1).unwrap();
        let watch = SocketWatch::attach(1).unwrap();
        let port = PortProgram::load(&config(), &endpoints.map(), &watch.maps()).unwrap();
        for hook in [
            PortHook::Steer,
            PortHook::Egress,
            PortHook::SlowLane,
            PortHook::Gap,
        ] {
            let program = port.loaded.program(hook.program()).unwrap();
            let fd = program.as_fd().as_raw_fd();
            let told = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}")).unwrap();
            let verified = told
                .lines()
                .find_map(|line| line.strip_prefix("verified_insns:"))
                .expect("Linux 5.16 tells");
            let verified: u64 = verified.trim().parse().unwrap();
            assert!(verified < MOST_VERIFIED, "{hook:?}: {verified}");
        }
    }
}
