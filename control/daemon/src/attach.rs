//! The steering programs on their interfaces.
//!
//! Order matters: sockets before the maps that name them, maps before programs. Until a port's
//! program is attached nothing of it is diverted.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, Result, bail};
use host::{Change, Changes, Direction, HostPort, Link, Snapshot};
use pipeline::{Ingress, Marks, PortId};
use worker::LaneSpec;
use xdp_prog::{Delivery, HostConfig, HostProgram, Management, Mode, PortConfig, PortProgram};

use crate::surroundings::Steered;
use crate::world::Registered;

/// Bytes that Ethernet and two VLAN tags add to an MTU. What is longer is no frame of this link
/// but a packet that a sender has not segmented, even where it fits a chunk.
const LINK_HEADER_BYTES: u32 = 14 + 8;

/// The workers' sockets, held beside the workers so that a program can be attached anew.
pub struct Sockets(Vec<(Ingress, u32, OwnedFd)>);

impl Sockets {
    /// Handles of the sockets of all lanes.
    pub fn of<'a>(lanes: impl Iterator<Item = (&'a LaneSpec, BorrowedFd<'a>)>) -> Result<Self> {
        let held = |(lane, socket): (&LaneSpec, BorrowedFd<'_>)| {
            let socket = socket
                .try_clone_to_owned()
                .context("cannot duplicate a socket")?;
            Ok((lane.ingress, lane.queue, socket))
        };
        lanes.map(held).collect::<Result<_>>().map(Self)
    }

    fn at(&self, ingress: Ingress) -> impl Iterator<Item = (u32, BorrowedFd<'_>)> {
        let here = self.0.iter().filter(move |(at, ..)| *at == ingress);
        here.map(|(_, queue, socket)| (*queue, socket.as_fd()))
    }
}

/// What does not change while the daemon runs.
pub struct AttachConfig {
    /// The host port.
    pub host_port: HostPort,
    /// Its queues.
    pub queues: u32,
    /// Its marks.
    pub marks: Marks,
    /// Random bytes that mark what the box re-injects into a generic port.
    pub secret: [u8; 5],
    /// What always passes.
    pub management: Vec<Management>,
    /// Whether transit passes without the daemon.
    pub open: bool,
    /// The workers' sockets.
    pub sockets: Sockets,
    /// Registered endpoints and their sockets, the same maps for all ports.
    pub endpoints: Registered,
}

impl AttachConfig {
    /// Locally administered and unicast. Never seen on a wire.
    fn secret_mac(&self) -> [u8; 6] {
        let [a, b, c, d, e] = self.secret;
        [0x0a, a, b, c, d, e]
    }
}

/// One port, attached.
pub struct AttachedPort {
    /// The link as it was then.
    pub link: Link,
    /// The programs.
    pub program: PortProgram,
    /// How XDP is attached.
    pub xdp: Mode,
}

/// Everything that is attached.
pub struct Attachments {
    config: AttachConfig,
    /// The host port's programs.
    pub host_program: HostProgram,
    /// The ports, by [`PortId`].
    pub ports: Vec<AttachedPort>,
}

/// What can go wrong with one port.
#[derive(Debug, thiserror::Error)]
enum PortError {
    #[error(transparent)]
    Program(#[from] xdp_prog::Error),
    #[error(transparent)]
    Journal(#[from] host::Error),
}

impl PortError {
    /// Whether another mode may do what this one could not.
    fn is_mode_refused(&self) -> bool {
        matches!(self, Self::Program(xdp_prog::Error::ModeRefused { .. }))
    }
}

impl Attachments {
    /// Loads the host port's programs; nothing is attached yet.
    pub fn load(config: AttachConfig) -> Result<Self> {
        let [a, b, c, d, e, _] = config.marks.to_stack(PortId(0)).0;
        let host_program = HostProgram::load(&HostConfig {
            queues: config.queues,
            to_stack: [a, b, c, d, e],
        })?;
        for (queue, socket) in config.sockets.at(Ingress::HostPort) {
            host_program.set_socket(queue, socket)?;
        }
        Ok(Self {
            config,
            host_program,
            ports: Vec::new(),
        })
    }

    /// What proxies have registered.
    pub const fn registered(&self) -> &Registered {
        &self.config.endpoints
    }

    /// Attaches to the host port. Programs on the pair go with the pair; they need no record.
    pub fn attach_host(&self) -> Result<()> {
        let HostPort { kernel, dataplane } = &self.config.host_port;
        self.host_program
            .attach(kernel.ifindex, dataplane.ifindex)?;
        Ok(())
    }

    /// Attaches the next port in the first of `modes` that the driver can do. The journal hears
    /// of it first.
    pub fn attach_port(
        &mut self,
        changes: &mut Changes,
        link: &Link,
        modes: &[Mode],
        steered: &Steered,
    ) -> Result<()> {
        let id = u8::try_from(self.ports.len())
            .map(PortId)
            .context("too many ports")?;
        for (mode, left) in modes.iter().zip((0..modes.len()).rev()) {
            for change in changes_of(link, *mode) {
                changes.record(change)?;
            }
            match self.attach(id, link, *mode, steered) {
                Err(error) if error.is_mode_refused() && left > 0 => {
                    tracing::info!(interface = link.name, %mode, %error, "mode not possible");
                }
                attached => {
                    self.ports.push(attached?);
                    return Ok(());
                }
            }
        }
        bail!("{}: no mode to attach in", link.name)
    }

    fn attach(
        &self,
        id: PortId,
        link: &Link,
        mode: Mode,
        steered: &Steered,
    ) -> Result<AttachedPort, PortError> {
        let config = &self.config;
        let mac = link.mac.unwrap_or_default();
        let mut program = PortProgram::load(
            &PortConfig {
                interface: link.name.clone(),
                ifindex: link.ifindex,
                mac,
                mode,
                queues: link.rx_queues,
                open: config.open,
                max_frame_bytes: xsk::MAX_FRAME_BYTES.min(link.mtu + LINK_HEADER_BYTES),
                host_ifindex: config.host_port.kernel.ifindex,
                from_wire: config.marks.from_wire(id).0,
                from_stack: config.marks.from_stack(id).0,
                from_stranger: config.marks.from_stranger(id).0,
                from_box: config.marks.from_box(id).0,
                reinjected: config.secret_mac(),
            },
            &config.endpoints.endpoints,
            &config.endpoints.sockets,
        )?;
        for (queue, socket) in config.sockets.at(Ingress::Port(id)) {
            program.set_socket(queue, socket)?;
        }
        program.set_addresses(&steered.v4, &steered.v6)?;
        program.set_guard(&steered.guard)?;
        program.set_management(&config.management)?;
        let reinjected = (mode == Mode::Generic).then(|| config.secret_mac());
        let delivery = Delivery {
            ifindex: link.ifindex,
            mac,
            reinjected,
        };
        self.host_program.set_port(id.0, &delivery)?;
        program.attach()?;
        Ok(AttachedPort {
            link: link.clone(),
            program,
            xdp: mode,
        })
    }

    /// Tells every port of the box's addresses, what is taken of them, and whether to guard them.
    pub fn set_steered(&mut self, steered: &Steered) -> Result<()> {
        for port in &mut self.ports {
            port.program.set_addresses(&steered.v4, &steered.v6)?;
            port.program.set_guard(&steered.guard)?;
        }
        Ok(())
    }

    /// Attaches ports anew whose interface has got another MAC address.
    pub fn follow_macs(&mut self, snapshot: &Snapshot, steered: &Steered) -> Result<()> {
        for number in 0..self.ports.len() {
            let Some(port) = self.ports.get(number) else {
                continue;
            };
            let now = snapshot
                .links
                .iter()
                .find(|link| link.ifindex == port.link.ifindex);
            let Some(now) = now.filter(|now| now.mac != port.link.mac) else {
                continue;
            };
            tracing::info!(interface = now.name, "new MAC address: attaching anew");
            let id = u8::try_from(number).map(PortId).context("too many ports")?;
            let attached = self.attach(id, now, port.xdp, steered)?;
            if let Some(port) = self.ports.get_mut(number) {
                *port = attached;
            }
        }
        Ok(())
    }
}

/// What attaching a port changes.
fn changes_of(link: &Link, mode: Mode) -> Vec<Change> {
    let (interface, ifindex) = (link.name.clone(), link.ifindex);
    let filter = |direction| Change::TcFilter {
        interface: interface.clone(),
        ifindex,
        direction,
    };
    let mut changes = vec![filter(Direction::Egress)];
    if mode == Mode::Generic {
        changes.push(filter(Direction::Ingress));
    }
    changes.push(Change::Xdp {
        interface,
        ifindex,
        mode: mode.to_string(),
    });
    changes
}
