//! What the rules and the box's addresses mean for the workers and for steering. Computed
//! anew whenever an address or a link changes; nothing is changed here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use anyhow::{Result, bail};
use host::{Own4, Snapshot};
use pipeline::{Marks, PortId, PortView, View};
use policy::capture::Node;
use policy::{Endpoints, Hook, Policy, Zones};
use rules::Interface;
use wire::MacAddr;
use xdp_prog::{Direction, Guard, MAX_OWNERS, MAX_TAKEN, Taken};

use crate::config::{Config, Established};
use crate::rulebook::Rulebook;

/// What does not change while the daemon runs.
pub struct Constants {
    /// The marks of the host port.
    pub marks: Marks,
    /// The configuration's zones and services.
    pub zones: Arc<Zones>,
}

/// What a look at rules and surroundings gives.
pub struct Surveyed {
    /// For the workers.
    pub view: View,
    /// For steering.
    pub steered: Steered,
    /// For the box's own connections.
    pub capture: Vec<Node>,
    /// What the administrator should know.
    pub warnings: Vec<String>,
}

/// What steering is told of the box's addresses.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Steered {
    /// Own IPv4 addresses, broadcast ones included, with what is taken of each.
    pub v4: Vec<(Ipv4Addr, Vec<Taken>)>,
    /// Own IPv6 addresses.
    pub v6: Vec<Ipv6Addr>,
    /// Whether everything from and to own addresses is asked about.
    pub guard: Guard,
}

impl Steered {
    /// What either has, for the time between two views.
    pub fn union(&self, other: &Self) -> Self {
        let mut v4: BTreeMap<Ipv4Addr, Vec<Taken>> = self.v4.iter().cloned().collect();
        for (addr, ranges) in &other.v4 {
            let known = v4.entry(*addr).or_default();
            let new = ranges
                .iter()
                .filter(|range| !known.contains(range))
                .cloned();
            let new: Vec<Taken> = new.collect();
            known.extend(new);
            // Better the old alone for a moment than a refusal: workers still know the old.
            known.truncate(MAX_TAKEN);
        }
        let v6: BTreeSet<Ipv6Addr> = self.v6.iter().chain(&other.v6).copied().collect();
        let guard = Guard {
            on: self.guard.on || other.guard.on,
            owners: self.guard.owners.clone(),
            epoch: self.guard.epoch,
        };
        Self {
            v4: v4.into_iter().collect(),
            v6: v6.into_iter().collect(),
            guard,
        }
    }
}

/// The interfaces as rules see them.
pub fn interfaces(config: &Config, snapshot: &Snapshot) -> Vec<Interface> {
    let ids = (0..=u8::MAX).map(PortId);
    let interface = |(id, port): (PortId, &crate::config::Port)| Interface {
        name: port.interface.clone(),
        port: id,
        first_address: snapshot
            .link(&port.interface)
            .and_then(|link| snapshot.addresses.primary4(link.ifindex)),
    };
    ids.zip(&config.ports).map(interface).collect()
}

/// Makes the workers' view and steering's part of it.
///
/// Endpoints that were taken stay so, even while their address is not the box's: connections may
/// lead there, and what the stack sends for them, now or when the address is back, must not leave
/// untranslated. `before` is what was taken.
pub fn survey(
    config: &Config,
    constants: &Constants,
    book: &Rulebook,
    snapshot: &Snapshot,
    before: &[Endpoints],
    generation: u32,
) -> Result<Surveyed> {
    let interfaces = interfaces(config, snapshot);
    let compiled = book.compile(&interfaces, &constants.zones, generation)?;
    let policy = compiled.policy;
    check_management(config, &policy)?;
    let own = snapshot.addresses.own_v4();
    let unicast: Vec<Ipv4Addr> = own
        .iter()
        .filter(|(_, kind)| **kind == Own4::Unicast)
        .map(|(addr, _)| *addr)
        .collect();
    let mut proxies: Vec<Endpoints> = policy.proxies();
    let old = before
        .iter()
        .filter(|set| !proxies.contains(set))
        .cloned()
        .collect::<Vec<_>>();
    proxies.extend(old);
    let mut taken = taken(&proxies, &policy.concerns(&unicast));
    let lost = taken.iter_mut().filter(|(addr, _)| !own.contains_key(addr));
    for (_, ranges) in lost.filter(|(_, ranges)| ranges.len() < MAX_TAKEN) {
        // What comes for an address that is not the box's is transit.
        ranges.push(everything_inbound());
    }
    if let Some((addr, ranges)) = taken.iter().find(|(_, ranges)| ranges.len() > MAX_TAKEN) {
        bail!(
            "the rules redirect to {} port ranges of {addr}; at most {} are possible: use --on-port",
            ranges.len() - 1,
            MAX_TAKEN - 1
        );
    }
    let steered = Steered {
        v4: own
            .keys()
            .chain(taken.keys().filter(|addr| !own.contains_key(addr)))
            .map(|addr| (*addr, taken.get(addr).cloned().unwrap_or_default()))
            .collect(),
        v6: snapshot.addresses.own_v6().into_iter().collect(),
        guard: Guard {
            on: policy.guards(),
            owners: policy
                .owners()
                .iter()
                .take(MAX_OWNERS)
                .map(|test| test.uids.clone())
                .collect(),
            epoch: false,
        },
    };
    let unmatched = rules::unmatched_interfaces(&book.ruleset, &interfaces);
    let told = compiled.warnings.iter().chain(&unmatched);
    let mut warnings: Vec<String> = told.map(ToString::to_string).collect();
    warnings.extend(lockout(config, &policy));
    warnings.extend(nobodys(&constants.zones));
    let foreign = proxies.iter().filter(|set| !own.contains_key(&set.addr));
    warnings.extend(foreign.map(|set| {
        format!(
            "a rule redirects to {}, which is no address of this box: its connections are refused",
            set.addr
        )
    }));
    warnings.dedup();
    let ports = config
        .ports
        .iter()
        .map(|port| {
            let link = snapshot.link(&port.interface);
            // Checked at the start. A NIC that is gone sends nothing, and the others go on.
            let mac = link.and_then(|link| link.mac).unwrap_or_default();
            PortView {
                mac: MacAddr(mac),
                first_address: link.and_then(|link| snapshot.addresses.primary4(link.ifindex)),
            }
        })
        .collect();
    let broadcast = own.iter().filter(|(_, kind)| **kind != Own4::Unicast);
    let view = View {
        policy: Arc::new(policy),
        rule_hits: Arc::clone(&book.hits),
        broadcasts: broadcast.map(|(addr, _)| *addr).collect(),
        own: unicast.into_iter().collect(),
        proxies,
        ports,
        marks: constants.marks,
        listening: Default::default(),
        keep_established: config.established == Established::Keep,
        epoch: false,
    };
    Ok(Surveyed {
        view,
        steered,
        capture: compiled.capture,
        warnings,
    })
}

/// Zones that say what may be reached in them and can be no server's.
fn nobodys(zones: &Zones) -> impl Iterator<Item = String> {
    zones.unreachable_as_destination().map(|name| {
        format!(
            "zone {name} has inbound_services and no networks: a server's zone is told by its \
             address alone, so the list forbids nothing; give it networks"
        )
    })
}

/// A box that asks rules about what comes to it, and lets nobody in without them.
fn lockout(config: &Config, policy: &Policy) -> Option<String> {
    let is_open = !policy.stands(Hook::FilterInput) || !config.management.is_empty();
    (!is_open).then(|| {
        "an INPUT chain stands and there is no [[management]] entry: without xtproxyd, or with \
         rules that forbid it, nobody reaches this box by its ports"
            .to_owned()
    })
}

/// Per own address: proxies' endpoints in both directions, what else rules concern inbound.
fn taken(proxies: &[Endpoints], concerned: &[Endpoints]) -> BTreeMap<Ipv4Addr, Vec<Taken>> {
    let mut taken: BTreeMap<Ipv4Addr, Vec<Taken>> = BTreeMap::new();
    let both = proxies.iter().map(|set| (set, Direction::Both));
    let inbound = concerned.iter().map(|set| (set, Direction::Inbound));
    for (set, direction) in both.chain(inbound) {
        let range = Taken {
            proto: set.proto.0,
            ports: set.ports.clone(),
            direction,
        };
        taken.entry(set.addr).or_default().push(range);
    }
    for ranges in taken.values_mut().filter(|ranges| ranges.len() > MAX_TAKEN) {
        // More than steering can tell apart: the workers see all that comes to this address and
        // deliver what no rule wants. What leaves must stay exact; `survey` refuses too many.
        ranges.retain(|range| range.direction == Direction::Both);
        ranges.push(everything_inbound());
    }
    taken
}

fn everything_inbound() -> Taken {
    Taken {
        proto: 0,
        ports: 0..=u16::MAX,
        direction: Direction::Inbound,
    }
}

/// Refuses management entries that cover where a proxy listens: what always passes is not
/// looked up, and the proxy's answers would leave untranslated.
pub fn check_management(config: &Config, policy: &policy::Policy) -> Result<()> {
    for set in policy.proxies() {
        let covers = |entry: &&xdp_prog::Management| {
            let same = set.proto.0 == 0 || entry.proto == set.proto.0;
            same && entry.ports.start() <= set.ports.end() && set.ports.start() <= entry.ports.end()
        };
        if let Some(entry) = config.steered_management().iter().find(covers) {
            bail!(
                "the management entry for {} port {} covers a port that rules redirect to, and what \
                 the proxy answers would leave untranslated: choose another --on-port or port",
                wire::Protocol(entry.proto),
                entry.ports.start()
            );
        }
    }
    Ok(())
}

/// Checks rules without looking at the box: every interface gets an address, so that redirects
/// without --on-ip lead somewhere. Gives what the administrator should know.
pub fn check(config: &Config, zones: &Arc<Zones>, book: &Rulebook) -> Result<Vec<String>> {
    let ids = (0..=u8::MAX).map(PortId);
    let interfaces = ids.zip(&config.ports).map(|(port, configured)| Interface {
        name: configured.interface.clone(),
        port,
        first_address: Some(Ipv4Addr::LOCALHOST),
    });
    let interfaces: Vec<Interface> = interfaces.collect();
    let compiled = book.compile(&interfaces, zones, 0)?;
    check_management(config, &compiled.policy)?;
    let unmatched = rules::unmatched_interfaces(&book.ruleset, &interfaces);
    let told = compiled.warnings.iter().chain(&unmatched);
    let told = told.map(ToString::to_string);
    Ok(book
        .warnings
        .iter()
        .cloned()
        .chain(told)
        .chain(lockout(config, &compiled.policy))
        .chain(nobodys(zones))
        .collect())
}
