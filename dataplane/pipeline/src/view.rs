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
    /// The first of its addresses, which speaks for the box about transit.
    pub first_address: Option<Ipv4Addr>,
}

/// Rules and surroundings at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// The compiled rules.
    pub policy: Arc<Policy>,
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
    /// The broadcast addresses of the box's own subnets.
    pub broadcasts: HashSet<Ipv4Addr>,
    /// Where somebody listens; address 0.0.0.0 is all of the box's. Asked only for a rule
    /// that wants to know.
    pub listening: HashSet<(Protocol, Endpoint)>,
    /// Whether what new rules would not let pass goes on if the old ones did.
    pub keep_established: bool,
    /// What marks say whose owner tests are those of the policy.
    pub epoch: bool,
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

    /// Whether an address is that of a group of hosts.
    pub(crate) fn is_group(&self, addr: Ipv4Addr) -> bool {
        addr.is_multicast() || addr.is_broadcast() || self.broadcasts.contains(&addr)
    }

    pub(crate) fn is_listening(&self, proto: Protocol, at: Endpoint) -> bool {
        let anywhere = Endpoint::new(Ipv4Addr::UNSPECIFIED, at.port);
        self.listening.contains(&(proto, at)) || self.listening.contains(&(proto, anywhere))
    }
}

/// The current view, shared with the workers.
pub type SharedView = Arc<ArcSwap<View>>;
