//! Who listens where rules redirect to: for rules that ask, and so that a proxy's own connections
//! are not captured again.

use std::collections::{BTreeMap, HashSet as Inodes};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use hashbrown::HashSet;
use policy::capture::{Node, Step};
use policy::{Endpoints, RuleId};
use sockets::Listener;
use wire::{Endpoint, Protocol};
use xdp_prog::{Capture, CaptureListener, SocketMaps};

/// How many of the box's own connections can be told where they meant to go.
const CAPTURED_MOST: u32 = 65_536;
/// How often the holders of listening sockets are looked up though no socket is new: a proxy may
/// have started another process.
const HOLDERS_EVERY: Duration = Duration::from_secs(2);

/// What rules need to know of listeners.
pub struct Wanted {
    /// The decision about the box's own connections.
    pub nodes: Vec<Node>,
    /// Where rules redirect transit to: who listens there is a proxy as well.
    pub proxies: Vec<Endpoints>,
    /// Whether any rule has to know who listens.
    pub asks: bool,
    /// Whether the rules are those from before, and go on counting.
    pub counts_on: bool,
}

/// What is known of listeners.
pub struct Listeners(Mutex<State>);

struct State {
    /// Registered sockets, which are never captured.
    registered: SocketMaps,
    capture: Option<Capture>,
    wanted: Wanted,
    /// How many connections rules matched before the decision was last replaced.
    counted: BTreeMap<u32, u64>,
    known: Vec<Listener>,
    told: Vec<CaptureListener>,
    looked: Option<Instant>,
}

impl Listeners {
    /// Nothing yet. What registered sockets open will not be captured.
    pub fn new(registered: SocketMaps) -> Self {
        Self(Mutex::new(State {
            registered,
            capture: None,
            wanted: Wanted {
                nodes: Vec::new(),
                proxies: Vec::new(),
                asks: false,
                counts_on: false,
            },
            counted: BTreeMap::new(),
            known: Vec::new(),
            told: Vec::new(),
            looked: None,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the rules for the box's own connections in force.
    pub fn set(&self, wanted: Wanted) -> Result<()> {
        let mut state = self.state();
        let state = &mut *state;
        if wanted.nodes.is_empty() && state.capture.is_none() {
            state.wanted = wanted;
            return Ok(());
        }
        let counted = if wanted.counts_on {
            state.hits()
        } else {
            BTreeMap::new()
        };
        if state.capture.is_none() {
            let capture = Capture::attach_beside(CAPTURED_MOST, &state.registered)?;
            state.capture = Some(capture);
        }
        let former = std::mem::replace(&mut state.wanted, wanted);
        match state.put_in_force() {
            Ok(()) => state.counted = counted,
            Err(error) => {
                state.wanted = former;
                state.looked = None;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Looks who listens now, if rules ask. The endpoints, in the words of the packet path.
    pub fn look(&self) -> Result<HashSet<(Protocol, Endpoint)>> {
        let mut state = self.state();
        if !state.wanted.asks && state.wanted.nodes.is_empty() {
            return Ok(HashSet::new());
        }
        state.look()?;
        let listening = state.known.iter().map(|listener| {
            let at = Endpoint::new(*listener.local.ip(), listener.local.port());
            (Protocol(listener.proto), at)
        });
        Ok(listening.collect())
    }

    /// Where a captured connection meant to go.
    pub fn original(&self, cookie: u64) -> Option<SocketAddrV4> {
        let state = self.state();
        state.capture.as_ref()?.original(cookie).ok().flatten()
    }

    /// How many of the box's own connections each rule has matched.
    pub fn hits(&self) -> BTreeMap<u32, u64> {
        self.state().hits()
    }

    /// The decision about the box's own connections.
    pub fn nodes(&self) -> Vec<Node> {
        self.state().wanted.nodes.clone()
    }
}

impl State {
    fn put_in_force(&mut self) -> Result<()> {
        // A proxy that is not known would not be reached.
        self.looked = None;
        self.look()?;
        let nodes = self.wanted.nodes.iter().map(crate::settings::node);
        let nodes: Vec<xdp_prog::CaptureNode> = nodes.collect();
        if let Some(capture) = &mut self.capture {
            capture.set(&nodes)?;
        }
        Ok(())
    }

    /// Whether a process that was known to be a proxy has ended: another may have its socket now.
    fn has_lost_one(&self) -> bool {
        let mut pids = self.told.iter().flat_map(|listener| &listener.pids);
        pids.any(|pid| !Path::new("/proc").join(pid.to_string()).exists())
    }

    fn hits(&self) -> BTreeMap<u32, u64> {
        let mut counted = self.counted.clone();
        let hits = self.capture.as_ref().map(Capture::hits);
        let hits = hits.and_then(Result::ok).unwrap_or_default();
        for (node, hits) in self.wanted.nodes.iter().zip(hits) {
            if let Some(RuleId(rule)) = node.rule {
                *counted.entry(rule).or_default() += hits;
            }
        }
        counted
    }

    /// Whether rules redirect to a listener.
    fn is_target(&self, listener: &Listener) -> bool {
        let (at, port) = (*listener.local.ip(), listener.local.port());
        let is_at = |addr: Ipv4Addr| at.is_unspecified() || at == addr;
        let captures = |node: &Node| {
            target(node).is_some_and(|(addr, wanted)| {
                is_at(addr) && wanted.is_none_or(|wanted| wanted == port)
            })
        };
        let redirects = |set: &Endpoints| {
            // Who listens where all ports lead is not known to be a proxy.
            let is_one = set.ports.start() == set.ports.end();
            is_one && is_at(set.addr) && set.ports.contains(&port)
        };
        listener.proto == Protocol::TCP.0
            && (self.wanted.nodes.iter().any(captures) || self.wanted.proxies.iter().any(redirects))
    }

    fn look(&mut self) -> Result<()> {
        let mut known = sockets::listening(&[Protocol::TCP.0, Protocol::UDP.0])?;
        known.sort_unstable_by_key(|listener| listener.inode);
        let is_new = known != self.known;
        self.known = known;
        if self.wanted.nodes.is_empty() {
            return Ok(());
        }
        let is_due = self.looked.is_none_or(|at| at.elapsed() >= HOLDERS_EVERY);
        if !is_new && !is_due && !self.has_lost_one() {
            return Ok(());
        }
        let proxies = || {
            self.known
                .iter()
                .filter(|listener| self.is_target(listener))
        };
        let inodes: Inodes<u32> = proxies().map(|listener| listener.inode).collect();
        let holders = sockets::holders(&inodes);
        let listeners: Vec<CaptureListener> = proxies()
            .map(|listener| CaptureListener {
                at: listener.local,
                pids: holders.get(&listener.inode).cloned().unwrap_or_default(),
            })
            .collect();
        self.looked = Some(Instant::now());
        if listeners != self.told
            && let Some(capture) = &mut self.capture
        {
            capture.set_listeners(&listeners)?;
            self.told = listeners;
        }
        Ok(())
    }
}

/// Where a step redirects to, if it does.
const fn target(node: &Node) -> Option<(Ipv4Addr, Option<u16>)> {
    match node.step {
        Step::Redirect { addr, port, .. } => Some((addr, port)),
        _ => None,
    }
}

/// Whether somebody takes what comes to an endpoint of this protocol.
pub fn is_listening(among: &HashSet<(Protocol, Endpoint)>, proto: Protocol, at: Endpoint) -> bool {
    let anywhere = Endpoint::new(Ipv4Addr::UNSPECIFIED, at.port);
    among.contains(&(proto, at)) || among.contains(&(proto, anywhere))
}
