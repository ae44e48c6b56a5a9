//! Who listens where rules redirect to: for rules that ask, and so that a proxy's own connections
//! are not captured again.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use hashbrown::HashSet;
use policy::capture::{Node, Step};
use sockets::Listener;
use wire::{Endpoint, Protocol};
use xdp_prog::{Capture, CaptureListener, SocketMaps};

/// How many of the box's own connections can be told where they meant to go.
const CAPTURED_MOST: u32 = 65_536;
/// How often the holders of listening sockets are looked up though no socket is new: a proxy may
/// have started another process.
const HOLDERS_EVERY: Duration = Duration::from_secs(2);

/// What is known of listeners.
pub struct Listeners(Mutex<State>);

struct State {
    /// Registered sockets, which are never captured.
    registered: SocketMaps,
    capture: Option<Capture>,
    /// Where rules redirect the box's own connections to.
    targets: Vec<(Ipv4Addr, Option<u16>)>,
    /// Whether there are rules that ask who listens.
    asks: bool,
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
            targets: Vec::new(),
            asks: false,
            known: Vec::new(),
            told: Vec::new(),
            looked: None,
        }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the rules for the box's own connections in force. `asks` says whether any rule has to
    /// know who listens.
    pub fn set(&self, nodes: Vec<Node>, asks: bool) -> Result<()> {
        let mut state = self.state();
        state.asks = asks;
        if nodes.is_empty() && state.capture.is_none() {
            return Ok(());
        }
        state.targets = nodes.iter().filter_map(target).collect();
        if state.capture.is_none() {
            state.capture = Some(Capture::attach_beside(CAPTURED_MOST, &state.registered)?);
        }
        if !state.targets.is_empty() {
            state.looked = None;
            // A proxy that is not known would not be reached.
            state.look()?;
        }
        let nodes: Vec<xdp_prog::CaptureNode> = nodes.iter().map(crate::settings::node).collect();
        if let Some(capture) = &mut state.capture {
            capture.set(&nodes)?;
        }
        Ok(())
    }

    /// Looks who listens now, if rules ask. The endpoints, in the words of the packet path.
    pub fn look(&self) -> Result<HashSet<(Protocol, Endpoint)>> {
        let mut state = self.state();
        if !state.asks && state.targets.is_empty() {
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
}

impl State {
    /// Whether rules redirect the box's own connections to a listener.
    fn is_target(&self, listener: &Listener) -> bool {
        listener.proto == Protocol::TCP.0
            && self.targets.iter().any(|(addr, port)| {
                let at = *listener.local.ip();
                (at.is_unspecified() || at == *addr)
                    && port.is_none_or(|port| port == listener.local.port())
            })
    }

    fn look(&mut self) -> Result<()> {
        let mut known = sockets::listening(&[Protocol::TCP.0, Protocol::UDP.0])?;
        known.sort_unstable_by_key(|listener| listener.inode);
        let is_new = known != self.known;
        self.known = known;
        if self.targets.is_empty() {
            return Ok(());
        }
        let is_due = self.looked.is_none_or(|at| at.elapsed() >= HOLDERS_EVERY);
        if !is_new && !is_due {
            return Ok(());
        }
        let tcp = || {
            self.known
                .iter()
                .filter(|listener| self.is_target(listener))
        };
        let inodes: std::collections::HashSet<u32> = tcp().map(|listener| listener.inode).collect();
        let holders = sockets::holders(&inodes);
        let listeners: Vec<CaptureListener> = tcp()
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

/// Whether somebody takes what comes to an endpoint of this protocol.
pub fn is_listening(among: &HashSet<(Protocol, Endpoint)>, proto: Protocol, at: Endpoint) -> bool {
    let anywhere = Endpoint::new(Ipv4Addr::UNSPECIFIED, at.port);
    among.contains(&(proto, at)) || among.contains(&(proto, anywhere))
}

/// Where a step redirects to, if it does.
const fn target(node: &Node) -> Option<(Ipv4Addr, Option<u16>)> {
    match node.step {
        Step::Redirect { addr, port, .. } => Some((addr, port)),
        _ => None,
    }
}
