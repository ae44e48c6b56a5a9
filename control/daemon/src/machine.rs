//! What the daemon tells of itself over the control socket.

use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use host::{Change, Snapshot};
use pipeline::{Ingress, LogRecord, PortId, SharedView};
use protocol::{Counters, Explanation, Failure, Probe, RulesChecked, RulesLoaded, ZoneMatrix};
use server::{LoadOrder, LogWords, Machine};
use worker::{LaneReading, WorkerStats};
use xsk::BindMode;

use crate::bringup::Dataplane;
use crate::config::Config;
use crate::listeners::Listeners;
use crate::ruling::Ruling;
use crate::surroundings::Constants;
use crate::{explain, told};

/// The parts of the daemon that change while it runs and that answers need.
pub struct Live {
    /// The dataplane, as long as it runs.
    pub dataplane: Option<Dataplane>,
    /// Links and addresses.
    pub snapshot: Snapshot,
    /// `ready` or `draining`.
    pub state: &'static str,
    /// What is changed on the box.
    pub changes: Vec<Change>,
    /// The rules in force.
    pub ruling: Ruling,
}

/// The daemon as the server sees it.
pub struct Facts {
    /// The configuration.
    pub config: Config,
    /// Its file.
    pub config_path: PathBuf,
    /// Marks and zones.
    pub constants: Constants,
    /// When the daemon was started.
    pub started: Instant,
    /// The workers' view.
    pub view: SharedView,
    /// Per worker, what it shows of itself.
    pub workers: Vec<Arc<WorkerStats>>,
    /// What an administrator should know.
    pub warnings: Vec<String>,
    /// Who listens where.
    pub listeners: Listeners,
    /// Held by the one who changes what is in force.
    pub turn: Mutex<()>,
    /// What changes.
    pub live: Mutex<Live>,
}

fn counters<'a>(pairs: impl IntoIterator<Item = (&'a str, u64)>) -> Counters {
    Counters(
        pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

impl Facts {
    /// The live part. A panic while it was held has not broken it: it is only ever replaced.
    pub fn live(&self) -> std::sync::MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Interfaces that have gone since the start.
    fn lost(&self, live: &Live) -> Vec<String> {
        let ports = self.config.ports.iter().map(|port| &port.interface);
        let gone = ports.chain([&self.config.host_port]);
        let gone = gone.filter(|name| live.snapshot.link(name).is_none());
        gone.map(|name| format!("{name} is gone: restart xtproxyd when it is back"))
            .collect()
    }

    fn lanes_of(&self, port: usize) -> impl Iterator<Item = LaneReading> + '_ {
        let ingress = u8::try_from(port).map_or(Ingress::HostPort, |id| Ingress::Port(PortId(id)));
        let lanes = self.workers.iter().flat_map(|worker| worker.lanes());
        lanes.filter(move |lane| lane.ingress == ingress)
    }

    fn port(&self, live: &Live, number: usize, config: &crate::config::Port) -> protocol::Port {
        let link = live.snapshot.link(&config.interface);
        let attached = live
            .dataplane
            .as_ref()
            .and_then(|dataplane| dataplane.attachments.ports.get(number));
        let xdp = attached.map(|port| port.xdp);
        let program = link.and_then(|link| xdp_prog::stale(link.ifindex).ok()?.xdp);
        let all_zero_copy = self
            .lanes_of(number)
            .all(|lane| lane.mode == BindMode::ZeroCopy);
        let bound = match (xdp, all_zero_copy) {
            (None, _) => "none",
            (Some(xdp_prog::Mode::Generic), _) => "generic",
            (Some(_), true) => "zerocopy",
            (Some(_), false) => "copy",
        };
        let addresses = link.and_then(|link| live.snapshot.addresses.v4.get(&link.ifindex));
        protocol::Port {
            interface: config.interface.clone(),
            ifindex: link.map_or(0, |link| link.ifindex),
            zone: config.zone.clone(),
            mode: config.mode.name().to_owned(),
            bound: bound.to_owned(),
            xdp: xdp.map_or_else(|| "none".to_owned(), |mode| mode.to_string()),
            program_id: program.map(|program| program.id),
            queues: self.lanes_of(number).count() as u32,
            mac: link
                .and_then(|link| link.mac)
                .map(|mac| wire::MacAddr(mac).to_string())
                .unwrap_or_default(),
            mtu: link.map_or(0, |link| link.mtu),
            addresses: addresses
                .into_iter()
                .flatten()
                .map(|address| format!("{}/{}", address.addr, address.prefix_len))
                .collect(),
            up: link.is_some_and(|link| link.up && link.carrier),
        }
    }
}

impl Machine for Facts {
    fn now_ns(&self) -> u64 {
        worker::monotonic_ns()
    }

    fn status(&self) -> protocol::Status {
        let ports = self.ports();
        let live = self.live();
        protocol::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            state: live.state.to_owned(),
            uptime_ns: u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX),
            config: self.config_path.display().to_string(),
            ruleset: self
                .config
                .ruleset
                .as_ref()
                .map(|path| path.display().to_string()),
            rule_generation: self.view.load().policy.generation(),
            on_exit: self.config.on_exit.name().to_owned(),
            host_port: Some(self.config.host_port.clone()),
            workers: self
                .workers
                .iter()
                .zip(0..)
                .map(|(worker, id)| protocol::Worker {
                    id,
                    core: worker.core().and_then(|core| u32::try_from(core).ok()),
                })
                .collect(),
            ports,
            changes: live.changes.iter().map(told).collect(),
            warnings: self
                .warnings
                .iter()
                .chain(&live.ruling.warnings)
                .cloned()
                .chain(self.lost(&live))
                .collect(),
            rules_pending: live.ruling.pending(Instant::now()),
            ..protocol::Status::default()
        }
    }

    fn ports(&self) -> Vec<protocol::Port> {
        let live = self.live();
        let ports = self.config.ports.iter().enumerate();
        ports
            .map(|(number, config)| self.port(&live, number, config))
            .collect()
    }

    fn port_stats(&self) -> Vec<protocol::PortStats> {
        let live = self.live();
        let Some(dataplane) = &live.dataplane else {
            return Vec::new();
        };
        let mut stats: Vec<protocol::PortStats> = dataplane
            .attachments
            .ports
            .iter()
            .enumerate()
            .map(|(number, port)| protocol::PortStats {
                interface: port.link.name.clone(),
                xdp: counters(port.program.counters().unwrap_or_default()),
                rings: rings(self.lanes_of(number)),
            })
            .collect();
        let host = self.workers.iter().flat_map(|worker| worker.lanes());
        stats.push(protocol::PortStats {
            interface: self.config.host_port.clone(),
            xdp: counters(
                dataplane
                    .attachments
                    .host_program
                    .counters()
                    .unwrap_or_default(),
            ),
            rings: rings(host.filter(|lane| lane.ingress == Ingress::HostPort)),
        });
        stats
    }

    fn frames(&self, id: u32) -> Counters {
        let Some(worker) = self.workers.get(id as usize) else {
            return Counters::default();
        };
        let ledger = worker.ledger();
        counters([
            ("total", ledger.total.into()),
            ("free", ledger.free.into()),
            ("filled", ledger.filled.into()),
            ("sending", ledger.sending.into()),
        ])
    }

    fn loop_counters(&self, id: u32) -> Counters {
        let Some(worker) = self.workers.get(id as usize) else {
            return Counters::default();
        };
        let (rounds, waits) = worker.rounds();
        counters([("rounds", rounds), ("waits", waits)])
    }

    fn rules(&self) -> protocol::Rules {
        told::rules(self)
    }

    fn log_words(&self, record: &LogRecord) -> Option<LogWords> {
        told::log_words(self, record)
    }

    fn captured(&self, cookie: u64) -> Option<SocketAddrV4> {
        self.listeners.original(cookie)
    }

    fn load(
        &self,
        order: &LoadOrder,
        progress: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<RulesLoaded, Failure> {
        self.load_rules(order, progress)
    }

    fn check(
        &self,
        order: &LoadOrder,
        progress: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<RulesChecked, Failure> {
        self.check_rules(order, progress)
    }

    fn keep(&self, ticket: u64) -> Result<(), Failure> {
        self.keep_rules(ticket)
    }

    fn revert(&self, ticket: u64) -> Result<(), Failure> {
        self.revert_rules(ticket)
    }

    fn explain(&self, packet: &Probe) -> Result<Explanation, Failure> {
        explain::explain(self, packet)
    }

    fn zones(&self) -> ZoneMatrix {
        told::zones(self)
    }
}

fn rings(lanes: impl Iterator<Item = LaneReading>) -> Counters {
    let mut sum = [0; 6];
    for lane in lanes {
        let ring = lane.ring;
        let values = [
            lane.received,
            lane.sent,
            ring.rx_dropped,
            ring.rx_ring_full,
            ring.rx_fill_empty,
            ring.invalid_descs,
        ];
        for (total, value) in sum.iter_mut().zip(values) {
            *total += value;
        }
    }
    let names = [
        "received",
        "sent",
        "rx_dropped",
        "rx_ring_full",
        "rx_fill_empty",
        "invalid_descs",
    ];
    counters(names.into_iter().zip(sum))
}

fn told(change: &Change) -> protocol::Change {
    let on_off = |on: &bool| if *on { "on" } else { "off" }.to_owned();
    let made = |what: String, after: &str| protocol::Change {
        what,
        before: None,
        after: after.to_owned(),
    };
    match change {
        Change::Link { interface, .. } => made(format!("link {interface}"), "created"),
        Change::Offload {
            interface,
            feature,
            old,
            new,
            ..
        } => protocol::Change {
            what: format!("ethtool {interface} {feature}"),
            before: Some(on_off(old)),
            after: on_off(new),
        },
        Change::Sysctl { name, old, new } => protocol::Change {
            what: format!("sysctl {name}"),
            before: Some(old.clone()),
            after: new.clone(),
        },
        Change::Xdp {
            interface, mode, ..
        } => made(format!("xdp {interface}"), mode),
        Change::Clsact { interface, .. } => made(format!("tc {interface} clsact"), "created"),
        Change::TcFilter {
            interface,
            direction,
            ..
        } => {
            let direction = match direction {
                host::Direction::Ingress => "ingress",
                host::Direction::Egress => "egress",
            };
            made(format!("tc {interface} {direction}"), "attached")
        }
    }
}
