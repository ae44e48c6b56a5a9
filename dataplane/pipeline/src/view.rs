//! What a worker knows of its surroundings: rules, the box's addresses, its ports. Read
//! whole or not at all: a change makes a new view, and a batch sees one view.

use std::net::Ipv4Addr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use hashbrown::HashSet;
use policy::{Endpoints, Policy, PortId};
use wire::{Endpoint, MacAddr, Protocol};

use crate::counters::RuleHits;
use crate::marks::Marks;

/// What stands for every protocol in [`Endpoints`].
const EVERY_PROTOCOL: Protocol = Protocol(0);

/// A port as the pipeline sees it.
#[derive(Clone, Copy, Debug)]
pub struct PortView {
    /// The NIC's own MAC address.
    pub mac: MacAddr,
}

/// Rules and surroundings at one moment.
#[derive(Debug)]
pub struct View {
    /// The compiled rules.
    pub policy: Policy,
    /// What each rule has matched; outlives a view as long as the ruleset's text stays.
    pub rule_hits: Arc<RuleHits>,
    /// All addresses of the box.
    pub own: HashSet<Ipv4Addr>,
    /// Where proxies listen that rules name: what the stack sends from there is diverted.
    pub proxies: Vec<Endpoints>,
    /// The ports, by [`PortId`].
    pub ports: Vec<PortView>,
    /// The marks of the host port.
    pub marks: Marks,
}

impl View {
    pub(crate) fn port(&self, id: PortId) -> Option<&PortView> {
        self.ports.get(usize::from(id.0))
    }

    /// Whether the stack's packets from this endpoint come through the worker.
    pub(crate) fn is_proxy(&self, proto: Protocol, at: Endpoint) -> bool {
        self.proxies
            .iter()
            .filter(|set| set.proto == proto || set.proto == EVERY_PROTOCOL)
            .any(|set| set.addr == at.addr && set.ports.contains(&at.port))
    }
}

/// The current view, shared with the workers.
pub type SharedView = Arc<ArcSwap<View>>;
