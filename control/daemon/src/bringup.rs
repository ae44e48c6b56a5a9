//! From a configuration to running workers with every port attached.
//!
//! Order matters: sockets before the maps that name them, maps before programs, workers before
//! the first frame can come. Until a port's program is attached nothing of it is diverted.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use anyhow::{Context, Result, bail};
use arc_swap::ArcSwap;
use host::{Changes, HostPort, Link, Netlink, RX_VLAN, Snapshot, Sysctl};
use pipeline::{Counters, Examples, Ingress, Logs, Marks, Pipeline, PortId, SharedView, View};
use registry::{Registry, RegistryConfig};
use tables::{FlowTable, OwnerId, Registrations, Side};
use worker::{LaneSpec, Worker, WorkerConfig, WorkerStats, monotonic_ns};
use xdp_prog::Mode as XdpMode;

use crate::attach::{AttachConfig, Attachments, Sockets};
use crate::config::{Config, Mode, OnExit};
use crate::surroundings::{Constants, Steered};
use crate::world::{self, World};

/// What the host port's veth can carry with a native XDP program: a page, less the kernel's
/// headroom (256), Ethernet (14) and the kernel's bookkeeping behind the frame (320).
const MAX_MTU: u32 = 4096 - 256 - 14 - 320;
/// Frames that a queue needs at least: two thirds to receive into, the rest on their way out.
const LANE_FRAMES: u32 = 192;
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
    /// Where it leaves what rules log.
    pub logs: Arc<Logs>,
    thread: JoinHandle<()>,
}

/// The dataplane, running.
pub struct Dataplane {
    /// The flow table.
    pub flows: Arc<FlowTable>,
    /// Who has registered what.
    pub registry: Arc<Mutex<Registry>>,
    /// What workers see.
    pub view: SharedView,
    /// The workers.
    pub workers: Vec<RunningWorker>,
    /// What is attached to the ports and the host port.
    pub attachments: Attachments,
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
pub fn constants(config: &Config) -> Result<Constants> {
    Ok(Constants {
        marks: Marks::new(random()?),
        zones: Arc::new(config.policy_zones()?),
    })
}

/// The cores that the configuration lists, or all.
pub fn listed_cores(config: &Config) -> Vec<usize> {
    config.workers.clone().unwrap_or_else(|| {
        let all = core_affinity::get_core_ids().unwrap_or_default();
        all.into_iter().map(|core| core.id).collect()
    })
}

/// The cores of the workers: what the configuration lists, or all; one per queue at most.
pub fn cores(config: &Config, snapshot: &Snapshot) -> Result<Vec<usize>> {
    let mut cores = listed_cores(config);
    // A worker sends by the queue of its own number, so each needs one of either kind.
    let queues = |port: &crate::config::Port| {
        let link = snapshot.link(&port.interface)?;
        Some(link.rx_queues.min(link.tx_queues))
    };
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
        if link.mtu > MAX_MTU {
            bail!(
                "{name} has MTU {}; at most {MAX_MTU} fits a frame: ip link set {name} mtu {MAX_MTU}",
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
    /// What workers see.
    pub view: View,
    /// What steering knows of the box's addresses.
    pub steered: Steered,
    /// The ports' links.
    pub links: Vec<Link>,
    /// The workers' cores.
    pub cores: Vec<usize>,
    /// The runtime folder, where registrations outlive the daemon.
    pub dir: &'a Path,
}

/// Starts everything. On an error the workers are stopped; what was changed on the box is in
/// the journal, for the caller to undo.
pub async fn start(plan: Plan<'_>, netlink: &Netlink, changes: &mut Changes) -> Result<Dataplane> {
    let Plan {
        config,
        constants,
        view,
        steered,
        links,
        cores,
        dir,
    } = plan;
    for link in &links {
        show_vlan_tags(netlink, changes, link).await?;
    }
    let mtu = links.iter().map(|link| link.mtu).max().unwrap_or(1500);
    let queues = cores.len() as u32;
    let lanes = links
        .iter()
        .map(|link| link.rx_queues.div_ceil(queues))
        .sum::<u32>()
        + 1;
    let (frames, least) = (config.limits.frames_per_worker, lanes * LANE_FRAMES);
    if frames < least {
        bail!(
            "limits.frames_per_worker = {frames} is too few for {lanes} queues a worker: at least {}",
            least.next_power_of_two()
        );
    }
    let host_port = HostPort::create(netlink, changes, &config.host_port, queues, mtu).await?;

    let limits = &config.limits;
    // A closed socket's number is taken for as long as it has flows.
    let owners = u32::try_from(limits.flows + limits.registrations)?.min(OwnerId::MAX);
    let flows = Arc::new(FlowTable::new(limits.flows, owners, random_word()?));
    let registrations = Arc::new(Registrations::new(limits.registrations, random_word()?));
    let view: SharedView = Arc::new(ArcSwap::from_pointee(view));
    let world = World::open(config, Arc::clone(&view))?;
    let endpoints = world.endpoints();
    let registry = adopt(config, dir, &flows, &registrations, world)?;
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
        let logs = Arc::new(Logs::default());
        let pipeline = Pipeline::new(
            Arc::clone(&flows),
            Arc::clone(&registrations),
            Arc::clone(&view),
            Arc::clone(&counters),
            Arc::clone(&examples),
            Arc::clone(&logs),
            number,
            random_word()?,
        );
        let frames = NonZeroU32::new(config.limits.frames_per_worker).unwrap_or(NonZeroU32::MIN);
        let worker = WorkerConfig {
            core: Some(*core),
            busy: config.busy,
            frames,
            lanes: lanes_of(&links, &zero_copy, &host_port, number as u32, queues),
        };
        opened.push((Worker::open(&worker, pipeline)?, counters, examples, logs));
    }

    let lanes = opened.iter().flat_map(|(worker, ..)| worker.sockets());
    let mut attachments = Attachments::load(AttachConfig {
        host_port,
        queues,
        marks: constants.marks,
        secret: random()?,
        management: config.steered_management(),
        open: config.on_exit == OnExit::Open,
        endpoints,
        sockets: Sockets::of(lanes)?,
    })?;
    attachments.attach_host()?;
    for (link, port) in links.iter().zip(&config.ports) {
        let modes: &[XdpMode] = match port.mode {
            Mode::Auto => &[XdpMode::Native, XdpMode::Generic],
            Mode::Zerocopy | Mode::Copy => &[XdpMode::Native],
            Mode::Generic => &[XdpMode::Generic],
        };
        attachments.attach_port(changes, link, modes, &steered)?;
    }

    let stop = Arc::new(AtomicBool::new(false));
    let mut workers = Vec::new();
    for (worker, counters, examples, logs) in opened {
        let (stats, stop) = (worker.stats(), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .spawn(move || worker.run(&stop))
            .context("cannot start a worker thread")?;
        workers.push(RunningWorker {
            stats,
            counters,
            examples,
            logs,
            thread,
        });
    }
    Ok(Dataplane {
        flows,
        registry: Arc::new(Mutex::new(registry)),
        view,
        workers,
        attachments,
        steered,
        stop,
    })
}

impl Dataplane {
    /// Tells steering and workers of new surroundings. While the workers' view changes,
    /// steering knows the old and the new: workers see too much for a moment, never too little.
    pub fn update(&mut self, view: pipeline::View, steered: Steered) -> Result<()> {
        self.attachments
            .set_steered(&self.steered.union(&steered))?;
        self.view.store(Arc::new(view));
        self.attachments.set_steered(&steered)?;
        self.steered = steered;
        Ok(())
    }

    /// What steering knows now.
    pub fn steered(&self) -> Steered {
        self.steered.clone()
    }

    /// Attaches ports anew whose interface has got another MAC address: until then steering
    /// takes what is sent to it for another host's, and keeps it from the kernel.
    pub fn follow_macs(&mut self, snapshot: &Snapshot) -> Result<()> {
        self.attachments.follow_macs(snapshot, &self.steered)
    }

    /// Removes flows whose local end is at an address that the box no longer has: the kernel
    /// would take their packets for transit.
    pub fn forget_lost_endpoints(&self) {
        let view = self.view.load();
        let local_end = |flow: &tables::Flow| match flow.reply.side() {
            Side::Host => flow.reply.tuple().src.addr,
            Side::Wire | Side::OneWay => flow.orig.tuple().src.addr,
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

/// Opens the registry with what an earlier daemon's clients still hold.
fn adopt(
    config: &Config,
    dir: &Path,
    flows: &Arc<FlowTable>,
    table: &Arc<Registrations>,
    world: World,
) -> Result<Registry> {
    let config = RegistryConfig {
        flows: Arc::clone(flows),
        table: Arc::clone(table),
        grants: world::grants(config),
        ports: Sysctl::local_ports()?,
        dir: dir.to_owned(),
        now_ns: monotonic_ns(),
    };
    let (registry, adopted) = Registry::open(config, Box::new(world))?;
    if adopted.kept + adopted.gone > 0 {
        let (kept, gone) = (adopted.kept, adopted.gone);
        tracing::info!(kept, gone, "registrations of an earlier start");
    }
    Ok(registry)
}

/// NICs take VLAN tags out of frames unless they are told not to; XDP would not see them.
async fn show_vlan_tags(netlink: &Netlink, changes: &mut Changes, link: &Link) -> Result<()> {
    let offloads = netlink.offloads(link).await?;
    match offloads.get(RX_VLAN) {
        Some(offload) if offload.active && offload.changeable => {
            changes.set_offload(netlink, link, RX_VLAN, false).await?;
        }
        Some(offload) if offload.active => {
            tracing::warn!(
                interface = link.name,
                "the driver takes VLAN tags out of frames and cannot be told not to: tagged \
                 traffic is taken for untagged"
            );
        }
        _ => {}
    }
    Ok(())
}

/// A worker's queues: of every port those that leave its number when divided by the count of
/// workers, and one of the host port.
fn lanes_of(
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
