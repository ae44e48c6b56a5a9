//! The programs of the host port, the veth pair between worker and kernel.

use std::os::fd::{AsFd, BorrowedFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::attach::Wanted;
use crate::counters::HOST_COUNTERS;
use crate::object::{Blueprint, DryRun, Loaded};
use crate::records::{self, DELIVERY_BYTES, Mac};
use crate::xdp::Mode;
use crate::{Error, interface, stale};

static BLUEPRINT: Blueprint = Blueprint {
    name: "host",
    elf: include_bytes!(concat!(env!("OUT_DIR"), "/host.bpf.o")),
    counters: &HOST_COUNTERS,
};

/// What is fixed for the host port's programs when they are loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostConfig {
    /// How many queues xtp0-dp has.
    pub queues: u32,
    /// Mark: the first five bytes of the destination of frames for the kernel.
    /// The sixth is the port's number.
    pub to_stack: [u8; 5],
}

/// The NIC where frames for the kernel appear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    /// Its index.
    pub ifindex: u32,
    /// Its hardware address.
    pub mac: Mac,
    /// In generic mode the secret that lets the frame pass the NIC's own program.
    pub reinjected: Option<Mac>,
}

/// Which program of the host port a dry run is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HostHook {
    /// XDP of xtp0-dp.
    Host,
    /// tc ingress of xtp0.
    Deliver,
}

impl HostHook {
    fn program(self) -> &'static str {
        match self {
            Self::Host => "xtp_host",
            Self::Deliver => "xtp_deliver",
        }
    }
}

/// The loaded programs of the host port. Dropping it leaves what is attached.
pub struct HostProgram {
    loaded: Loaded,
    ports: MapHandle,
}

impl HostProgram {
    /// Loads the programs; nothing is attached yet.
    pub fn load(config: &HostConfig) -> Result<Self, Error> {
        let loaded = BLUEPRINT.load(&records::host_config(config.to_stack), config.queues, &[])?;
        Ok(Self {
            ports: loaded.map("ports", DELIVERY_BYTES)?,
            loaded,
        })
    }

    /// Gives a queue of xtp0-dp its AF_XDP socket.
    pub fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        self.loaded.set_socket(queue, socket)
    }

    /// Says which NIC a port's number means.
    pub fn set_port(&self, id: u8, port: &Delivery) -> Result<(), Error> {
        self.ports
            .update(&[id], &records::delivery(port), MapFlags::ANY)
            .map_err(|error| {
                Error::from_libbpf(format!("telling the host port of port {id}"), &error)
            })
    }

    /// Attaches to the pair: `kernel_side` is xtp0, `worker_side` xtp0-dp.
    pub fn attach(&self, kernel_side: u32, worker_side: u32) -> Result<(), Error> {
        let host = self.loaded.program(HostHook::Host.program())?;
        let deliver = self.loaded.program(HostHook::Deliver.program())?;
        let kernel_name = interface::name(kernel_side);
        Wanted {
            interface: &kernel_name,
            ifindex: kernel_side,
            ingress: Some(deliver.as_fd()),
            egress: None,
            gap: None,
            xdp: None,
        }
        .attach()?;
        Wanted {
            interface: &interface::name(worker_side),
            ifindex: worker_side,
            ingress: None,
            egress: None,
            gap: None,
            xdp: Some((Mode::Native, host.as_fd())),
        }
        .attach()
        .inspect_err(|_| drop(stale::detach(&kernel_name, kernel_side, true)))
        .map(drop)
    }

    /// Removes the programs from the pair.
    pub fn detach(&self, kernel_side: u32, worker_side: u32) -> Result<(), Error> {
        stale::detach_stale(worker_side)?;
        stale::detach_stale(kernel_side).map(drop)
    }

    /// Every counter by name.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        self.loaded.counters()
    }

    /// What a program makes of a frame on queue 0. Counts like a real one.
    pub fn dry_run(&self, hook: HostHook, frame: &[u8]) -> Result<DryRun, Error> {
        self.loaded.dry_run(hook.program(), frame)
    }
}
