//! From a configuration to running workers with every port attached.
//!
//! Order matters: sockets before the maps that name them, maps before programs, workers before
//! the first frame can come. Until a port's program is attached nothing of it is diverted.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use host::{Change, Changes, Direction, HostPort, Link, Netlink, RX_VLAN, Snapshot};
use pipeline::{Counters, Examples, Ingress, Marks, Pipeline, PortId, RuleHits, SharedView};
use rules::Ruleset;
use tables::{FlowTable, Side};
use worker::{LaneSpec, Worker, WorkerConfig, WorkerStats, monotonic_ns};
use xdp_prog::{Delivery, HostConfig, HostProgram, Mode as XdpMode, PortConfig, PortProgram};

use crate::config::{Config, Mode, OnExit};
use crate::surroundings::{self, Constants, Steered};

/// Bytes that Ethernet and two VLAN tags add to an MTU.
const LINK_HEADER_BYTES: u32 = 14 + 8;
/// Names the threads for `top` and `perf`.
const THREAD_NAME: &str = "xtp-worker";

/// One worker, running.
pub struct RunningWorker {
    /// Its figures.
    pub stats: Arc<WorkerStats>,
    /// The pipeline's counters.
    pub counters: Arc<Counters>,
    /// Where it leaves examples of drops.
    pub examples: Arc<Examples>,
    thread: JoinHandle<()>,
}

/// One port, attached.
pub struct AttachedPort {
    /// The link as it was at the start.
    pub link: Link,
    /// The programs.
    pub program: PortProgram,
    /// How XDP is attached.
    pub xdp: XdpMode,
}

/// The dataplane, running.
pub struct Dataplane {
    /// The flow table.
    pub flows: Arc<FlowTable>,
    /// What workers see.
    pub view: SharedView,
    /// The workers.
    pub workers: Vec<RunningWorker>,
    /// The ports, in the order of the configuration.
    pub ports: Vec<AttachedPort>,
    /// The host port's programs.
    pub host_program: HostProgram,
    steered: Steered,
    stop: Arc<AtomicBool>,
}

/// Random bytes from the system.
fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut at = 0;
    while at < N {
        let rest = bytes.get_mut(at..).unwrap_or_default();
        at += rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

fn random_word() -> Result<u64> {
    Ok(u64::from_ne_bytes(random()?))
}

/// Constants of this run.
pub fn constants(ruleset: Ruleset, workers: usize) -> Result<Constants> {
    let rules = ruleset.rows().count();
    Ok(Constants {
        ruleset,
        rule_hits: Arc::new(RuleHits::new(workers, rules)),
        marks: Marks::new(random()?),
    })
}

/// The cores of the workers: what the configuration lists, or all; one per queue at most.
pub fn cores(config: &Config, snapshot: &Snapshot) -> Result<Vec<usize>> {
    let mut cores = config.workers.clone().unwrap_or_else(|| {
        let all = core_affinity::get_core_ids().unwrap_or_default();
        all.into_iter().map(|core| core.id).collect()
    });
    let queues = |port: &crate::config::Port| snapshot.link(&port.interface).map(|l| l.rx_queues);
    let fewest = config.ports.iter().filter_map(queues).min().unwrap_or(1);
    cores.truncate(fewest.max(1) as usize);
    if cores.is_empty() {
        bail!("cannot learn which cores there are: list them in `workers`");
    }
    Ok(cores)
}

/// The links of the ports, checked.
pub async fn links(config: &Config, netlink: &Netlink) -> Result<Vec<Link>> {
    let mut links = Vec::new();
    for port in &config.ports {
        let link = netlink.link(&port.interface).await?;
        let name = &link.name;
        if link.mac.is_none() {
            bail!("{name} is no Ethernet interface; ports must be");
        }
        let most = xsk::MAX_FRAME_BYTES - LINK_HEADER_BYTES;
        if link.mtu > most {
            bail!(
                "{name} has MTU {}; at most {most} fits a frame: ip link set {name} mtu {most}",
                link.mtu
            );
        }
        if !link.up {
            tracing::warn!(interface = name, "the port is down: ip link set {name} up");
        }
        links.push(link);
    }
    Ok(links)
}

/// What [`start`] builds from.
pub struct Plan<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// What does not change.
    pub constants: &'a Constants,
    /// Links and addresses now.
    pub snapshot: &'a Snapshot,
    /// The ports' links.
    pub links: Vec<Link>,
    /// The workers' cores.
    pub cores: Vec<usize>,
}

/// Starts everything. On an error the workers are stopped; what was changed on the box is in
/// the journal, for the caller to undo.
pub async fn start(plan: Plan<'_>, netlink: &Netlink, changes: &mut Changes) -> Result<Dataplane> {
    let Plan {
        config,
        constants,
        snapshot,
        links,
        cores,
    } = plan;
    let (view, steered) = surroundings::survey(config, constants, snapshot, &[], 1)?;
    for link in &links {
        show_vlan_tags(netlink, changes, link).await?;
    }
    let mtu = links.iter().map(|link| link.mtu).max().unwrap_or(1500);
    let queues = cores.len() as u32;
    let host_port = HostPort::create(netlink, changes, &config.host_port, queues, mtu).await?;

    let flows = Arc::new(FlowTable::new(config.limits.flows, random_word()?));
    let view: SharedView = Arc::new(ArcSwap::from_pointee(view));
    let zero_copy: Vec<bool> = config
        .ports
        .iter()
        .map(|port| match port.mode {
            Mode::Auto => xsk::supports_zero_copy(&port.interface, 0),
            Mode::Zerocopy => true,
            Mode::Copy | Mode::Generic => false,
        })
        .collect();
    let mut opened = Vec::new();
    for (number, core) in cores.iter().enumerate() {
        let counters = Arc::new(Counters::default());
        let examples = Arc::new(Examples::default());
        let pipeline = Pipeline::new(
            Arc::clone(&flows),
            Arc::clone(&view),
            Arc::clone(&counters),
            Arc::clone(&examples),
            number,
            random_word()?,
        );
        let frames = NonZeroU32::new(config.limits.frames_per_worker).unwrap_or(NonZeroU32::MIN);
        let worker = WorkerConfig {
            core: Some(*core),
            busy: config.busy,
            frames,
            lanes: lanes(&links, &zero_copy, &host_port, number as u32, queues),
        };
        opened.push((Worker::open(&worker, pipeline)?, counters, examples));
    }

    let host_program = HostProgram::load(&HostConfig {
        queues,
        to_stack: prefix(constants.marks.to_stack(PortId(0)).0),
    })?;
    let secret = Secret(random()?);
    let mut ports = Vec::new();
    for ((id, link), port) in (0..=u8::MAX).map(PortId).zip(&links).zip(&config.ports) {
        let modes: &[XdpMode] = match port.mode {
            Mode::Auto => &[XdpMode::Native, XdpMode::Generic],
            Mode::Zerocopy | Mode::Copy => &[XdpMode::Native],
            Mode::Generic => &[XdpMode::Generic],
        };
        ports.push(Candidate {
            id,
            link,
            modes,
            open: config.on_exit == OnExit::Open,
        });
    }

    let stop = Arc::new(AtomicBool::new(false));
    let sockets: Vec<&Worker> = opened.iter().map(|(worker, ..)| worker).collect();
    for worker in &sockets {
        for (lane, socket) in worker
            .sockets()
            .filter(|(l, _)| l.ingress == Ingress::HostPort)
        {
            host_program.set_socket(lane.queue, socket)?;
        }
    }
    let mut attaching = Attaching {
        host_program: &host_program,
        host_port: &host_port,
        changes,
        marks: constants.marks,
        secret: &secret,
        steered: &steered,
        management: &config.steered_management(),
    };
    attaching.host()?;
    // Loading first, for all ports: what can fail shall fail before anything is diverted.
    let mut attached = Vec::new();
    for candidate in &ports {
        attached.push(attaching.port(candidate, &sockets)?);
    }
    drop(sockets);

    let mut workers = Vec::new();
    for (worker, counters, examples) in opened {
        let (stats, stop) = (worker.stats(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn(move || worker.run(&stop))
            .context("cannot start a worker thread")?;
        workers.push(RunningWorker {
            stats,
            counters,
            examples,
            thread,
        });
    }
    Ok(Dataplane {
        flows,
        view,
        workers,
        ports: attached,
        host_program,
        steered,
        stop,
    })
}

impl Dataplane {
    /// Tells steering and workers of new surroundings. While the workers' view changes,
    /// steering knows the old and the new: workers see too much for a moment, never too little.
    pub fn update(&mut self, view: pipeline::View, steered: Steered) -> Result<()> {
        let both = self.steered.union(&steered);
        for port in &mut self.ports {
            port.program.set_addresses(&both.v4, &both.v6)?;
        }
        self.view.store(Arc::new(view));
        for port in &mut self.ports {
            port.program.set_addresses(&steered.v4, &steered.v6)?;
        }
        self.steered = steered;
        Ok(())
    }

    /// Removes flows whose local end is at an address that the box no longer has: the kernel
    /// would take their packets for transit.
    pub fn forget_lost_endpoints(&self) {
        let view = self.view.load();
        let local_end = |flow: &tables::Flow| match flow.reply.side() {
            Side::Host => flow.reply.tuple().src.addr,
            Side::Wire => flow.orig.tuple().src.addr,
        };
        let lost = self
            .flows
            .iter()
            .filter(|s| !view.own.contains(&local_end(&s.flow)));
        for snapshot in lost {
            self.flows.remove(snapshot.id, monotonic_ns());
        }
    }

    /// Stops the workers and waits for them; their sockets are closed then.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for worker in self.workers {
            if worker.thread.join().is_err() {
                tracing::error!("a worker had failed");
            }
        }
    }

    /// Whether every worker runs.
    pub fn is_alive(&self) -> bool {
        self.workers
            .iter()
            .all(|worker| !worker.thread.is_finished())
    }
}

/// NICs take VLAN tags out of frames unless they are told not to; XDP would not see them.
async fn show_vlan_tags(netlink: &Netlink, changes: &mut Changes, link: &Link) -> Result<()> {
    let offloads = netlink.offloads(link).await?;
    match offloads.get(RX_VLAN) {
        Some(offload) if offload.active && offload.changeable => {
            changes.set_offload(netlink, link, RX_VLAN, false).await?;
        }
        _ => {}
    }
    Ok(())
}

/// A worker's queues: of every port those that leave its number when divided by the count of
/// workers, and one of the host port.
fn lanes(
    links: &[Link],
    zero_copy: &[bool],
    host_port: &HostPort,
    number: u32,
    workers: u32,
) -> Vec<LaneSpec> {
    let ids = (0..=u8::MAX).map(PortId);
    let mut lanes: Vec<LaneSpec> = ids
        .zip(links.iter().zip(zero_copy))
        .flat_map(|(id, (link, zero_copy))| {
            (0..link.rx_queues)
                .filter(move |queue| queue % workers == number)
                .map(move |queue| LaneSpec {
                    ingress: Ingress::Port(id),
                    interface: link.name.clone(),
                    queue,
                    zero_copy: *zero_copy,
                })
        })
        .collect();
    let interface = host_port.dataplane.name.clone();
    lanes.push(LaneSpec {
        ingress: Ingress::HostPort,
        interface,
        queue: number,
        zero_copy: false,
    });
    lanes
}

fn prefix(mac: [u8; 6]) -> [u8; 5] {
    let [a, b, c, d, e, _] = mac;
    [a, b, c, d, e]
}

/// Marks what the box re-injects into a generic port. Never seen on a wire.
struct Secret([u8; 5]);

impl Secret {
    /// Locally administered and unicast.
    fn mac(&self) -> [u8; 6] {
        let [a, b, c, d, e] = self.0;
        [0x0a, a, b, c, d, e]
    }
}

/// A port to be attached, with the modes to try in order.
struct Candidate<'a> {
    id: PortId,
    link: &'a Link,
    modes: &'a [XdpMode],
    open: bool,
}

/// What attaching needs, and the journal that hears of it first.
struct Attaching<'a> {
    host_program: &'a HostProgram,
    host_port: &'a HostPort,
    changes: &'a mut Changes,
    marks: Marks,
    secret: &'a Secret,
    steered: &'a Steered,
    management: &'a [xdp_prog::Management],
}

impl Attaching<'_> {
    /// Programs on the pair go with the pair; they need no record of their own.
    fn host(&self) -> Result<()> {
        let HostPort { kernel, dataplane } = self.host_port;
        self.host_program
            .attach(kernel.ifindex, dataplane.ifindex)?;
        Ok(())
    }

    /// Attaches a port in the first mode that the driver can do.
    fn port(&mut self, candidate: &Candidate<'_>, workers: &[&Worker]) -> Result<AttachedPort> {
        let mut refused = None;
        for mode in candidate.modes {
            match self.port_in(candidate, *mode, workers) {
                Err(error) if is_mode_refused(&error) => {
                    tracing::info!(interface = candidate.link.name, %mode, %error, "mode not possible");
                    refused = Some(error);
                }
                done => return done.map_err(Into::into),
            }
        }
        match refused {
            Some(error) => Err(error.into()),
            None => bail!("{}: no mode to attach in", candidate.link.name),
        }
    }

    fn port_in(
        &mut self,
        candidate: &Candidate<'_>,
        mode: XdpMode,
        workers: &[&Worker],
    ) -> Result<AttachedPort, PortError> {
        let Candidate { id, link, open, .. } = candidate;
        let mac = link.mac.unwrap_or_default();
        let reinjected = (mode == XdpMode::Generic).then(|| self.secret.mac());
        let mut program = PortProgram::load(&PortConfig {
            interface: link.name.clone(),
            ifindex: link.ifindex,
            mac,
            mode,
            queues: link.rx_queues,
            open: *open,
            max_frame_bytes: xsk::MAX_FRAME_BYTES,
            host_ifindex: self.host_port.kernel.ifindex,
            from_wire: self.marks.from_wire(*id).0,
            from_stack: self.marks.from_stack(*id).0,
            reinjected: self.secret.mac(),
        })?;
        for (lane, socket) in workers.iter().flat_map(|worker| worker.sockets()) {
            if lane.ingress == Ingress::Port(*id) {
                program.set_socket(lane.queue, socket)?;
            }
        }
        program.set_addresses(&self.steered.v4, &self.steered.v6)?;
        program.set_management(self.management)?;
        self.host_program.set_port(
            id.0,
            &Delivery {
                ifindex: link.ifindex,
                mac,
                reinjected,
            },
        )?;
        for change in changes_of(link, mode) {
            self.changes.record(change)?;
        }
        program.attach()?;
        Ok(AttachedPort {
            link: (*link).clone(),
            program,
            xdp: mode,
        })
    }
}

/// What attaching a port changes.
fn changes_of(link: &Link, mode: XdpMode) -> Vec<Change> {
    let (interface, ifindex) = (link.name.clone(), link.ifindex);
    let filter = |direction| Change::TcFilter {
        interface: interface.clone(),
        ifindex,
        direction,
    };
    let mut changes = vec![filter(Direction::Egress)];
    if mode == XdpMode::Generic {
        changes.push(filter(Direction::Ingress));
    }
    changes.push(Change::Xdp {
        interface,
        ifindex,
        mode: mode.to_string(),
    });
    changes
}

/// What can go wrong with one port.
#[derive(Debug, thiserror::Error)]
enum PortError {
    #[error(transparent)]
    Program(#[from] xdp_prog::Error),
    #[error(transparent)]
    Journal(#[from] host::Error),
}

/// Whether another mode may do what this one could not.
fn is_mode_refused(error: &PortError) -> bool {
    matches!(
        error,
        PortError::Program(xdp_prog::Error::Unsupported { .. })
    )
}
