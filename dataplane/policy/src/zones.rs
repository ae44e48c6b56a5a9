//! Security zones and the services between them.
//!
//! Invariant: parents form no circle, and a network belongs to one zone.
//! What lies in no zone, and a zone without a list, is restricted by nothing.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use hashbrown::HashMap as FastMap;
use wire::Endpoint;

use crate::{Network, PortId};

mod spec;

use spec::check_names_and_parents;
pub use spec::{ServiceSpec, ZoneError, ZoneSpec};

/// Index of a zone.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ZoneId(pub u16);

/// Index of a service.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServiceId(pub u16);

/// Who may not reach whom with what.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ZoneDenial {
    /// The client's zone.
    pub from: Option<ZoneId>,
    /// The server's zone.
    pub to: Option<ZoneId>,
    /// The service.
    pub service: Option<ServiceId>,
}

/// Which services one side of a zone lets through.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Services {
    All,
    Some(Vec<ServiceId>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Zone {
    name: String,
    parent: Option<ZoneId>,
    /// Whether the inbound list is its own, and no parent's.
    has_own_inbound: bool,
    inbound: Services,
    outbound: Services,
}

/// Zones and services, ready to be asked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Zones {
    zones: Vec<Zone>,
    services: Vec<ServiceSpec>,
    /// By prefix length, the longest first.
    networks: Vec<(Network, FastMap<u32, ZoneId>)>,
    /// By port.
    ports: Vec<Option<ZoneId>>,
    proxies: FastMap<Endpoint, ServiceId>,
}

impl Zones {
    /// Checks zones and services and puts them in order.
    ///
    /// # Errors
    /// If they do not fit together.
    pub fn new(zones: Vec<ZoneSpec>, services: Vec<ServiceSpec>) -> Result<Self, ZoneError> {
        let most = usize::from(u16::MAX);
        if zones.len() > most || services.len() > most {
            return Err(ZoneError::TooMany);
        }
        let mut all = Self::default();
        let mut named = HashMap::new();
        for (id, service) in (0..).map(ServiceId).zip(&services) {
            if named.insert(service.name.clone(), id).is_some() {
                return Err(ZoneError::NameTwice(service.name.clone()));
            }
            if let Some(first) = all.proxies.insert(service.proxy, id) {
                return Err(ZoneError::ProxyTwice {
                    first: services
                        .get(usize::from(first.0))
                        .map_or_else(String::new, |s| s.name.clone()),
                    second: service.name.clone(),
                });
            }
        }
        all.services = services;
        check_names_and_parents(&zones)?;
        for (id, zone) in (0..).map(ZoneId).zip(&zones) {
            let lists = |list: fn(&ZoneSpec) -> &Option<Vec<String>>| inherited(&zones, zone, list);
            all.zones.push(Zone {
                name: zone.name.clone(),
                parent: zone
                    .parent
                    .and_then(|at| u16::try_from(at).ok())
                    .map(ZoneId),
                has_own_inbound: zone.inbound.is_some(),
                inbound: services_of(lists(|z| &z.inbound), &named, zone)?,
                outbound: services_of(lists(|z| &z.outbound), &named, zone)?,
            });
            all.claim(id, zone)?;
        }
        all.networks
            .sort_by_key(|(of, _)| std::cmp::Reverse(of.mask()));
        Ok(all)
    }

    /// No zones: everything is allowed.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    fn claim(&mut self, id: ZoneId, zone: &ZoneSpec) -> Result<(), ZoneError> {
        for &(addr, bits) in &zone.networks {
            let Some(network) = Network::of_prefix(addr, bits) else {
                let zone = zone.name.clone();
                return Err(ZoneError::NoPrefix { zone, bits });
            };
            let level = match self
                .networks
                .iter()
                .position(|(of, _)| of.mask() == network.mask())
            {
                Some(level) => level,
                None => {
                    self.networks.push((network, FastMap::new()));
                    self.networks.len() - 1
                }
            };
            let Some((_, level)) = self.networks.get_mut(level) else {
                continue;
            };
            let first = level.insert(network.addr().to_bits(), id);
            if let Some(first) = first.filter(|first| *first != id) {
                return Err(ZoneError::NetworkTwice {
                    addr: network.addr(),
                    bits,
                    first: self.name(first).to_owned(),
                    second: zone.name.clone(),
                });
            }
        }
        for port in &zone.ports {
            let at = usize::from(port.0);
            if self.ports.len() <= at {
                self.ports.resize(at + 1, None);
            }
            let first = self.ports.get_mut(at).and_then(|slot| slot.replace(id));
            if let Some(first) = first.filter(|first| *first != id) {
                return Err(ZoneError::PortTwice {
                    first: self.name(first).to_owned(),
                    second: zone.name.clone(),
                });
            }
        }
        Ok(())
    }

    /// The zone of this name.
    #[must_use]
    pub fn zone_named(&self, name: &str) -> Option<ZoneId> {
        self.names()
            .find(|(_, of)| *of == name)
            .map(|(zone, _)| zone)
    }

    /// The zone with the longest prefix that holds `addr`, or else the one that has the
    /// port by which its packets come in.
    #[must_use]
    pub fn zone_of(&self, addr: Ipv4Addr, in_port: Option<PortId>) -> Option<ZoneId> {
        let bits = addr.to_bits();
        self.networks
            .iter()
            .find_map(|(of, zones)| zones.get(&(bits & of.mask().to_bits())))
            .or_else(|| self.ports.get(usize::from(in_port?.0))?.as_ref())
            .copied()
    }

    /// Whether a zone is another one, or lies in it.
    #[must_use]
    pub fn is_within(&self, zone: ZoneId, of: ZoneId) -> bool {
        let mut at = Some(zone);
        while let Some(zone) = at {
            if zone == of {
                return true;
            }
            at = self.zone(zone).and_then(|zone| zone.parent);
        }
        false
    }

    /// Whether a zone or one below it has networks. Without, it is no packet's destination:
    /// ports tell only where packets come from.
    #[must_use]
    pub fn has_networks(&self, zone: ZoneId) -> bool {
        let mut claims = self.networks.iter().flat_map(|(_, zones)| zones.values());
        claims.any(|of| self.is_within(*of, zone))
    }

    /// Zones with an inbound list of their own that nothing can come to, for want of networks.
    pub fn unreachable_as_destination(&self) -> impl Iterator<Item = &str> {
        let zones = (0..).map(ZoneId).zip(&self.zones);
        zones
            .filter(|(id, zone)| zone.has_own_inbound && !self.has_networks(*id))
            .map(|(_, zone)| zone.name.as_str())
    }

    /// The service whose proxy listens there.
    #[must_use]
    pub fn service_of(&self, proxy: Endpoint) -> Option<ServiceId> {
        self.proxies.get(&proxy).copied()
    }

    /// A zone's name; empty if there is no such zone.
    #[must_use]
    pub fn name(&self, zone: ZoneId) -> &str {
        self.zone(zone).map_or("", |zone| &zone.name)
    }

    /// A service's name; empty if there is no such service.
    #[must_use]
    pub fn service_name(&self, service: ServiceId) -> &str {
        self.services
            .get(usize::from(service.0))
            .map_or("", |service| &service.name)
    }

    /// All zones with their names, in the order that they were given in.
    pub fn names(&self) -> impl Iterator<Item = (ZoneId, &str)> {
        (0..)
            .map(ZoneId)
            .zip(self.zones.iter().map(|zone| zone.name.as_str()))
    }

    /// All services, in the order that they were given in.
    pub fn services(&self) -> impl Iterator<Item = (ServiceId, &ServiceSpec)> {
        (0..).map(ServiceId).zip(&self.services)
    }

    /// Whether a proxied connection may be: the client's zone must list the service in
    /// outbound, the server's in inbound. A connection of no service needs `*`, or no list.
    #[must_use]
    pub fn allowed(
        &self,
        from: Option<ZoneId>,
        to: Option<ZoneId>,
        service: Option<ServiceId>,
    ) -> bool {
        let lets = |services: &Services| match services {
            Services::All => true,
            Services::Some(list) => service.is_some_and(|service| list.contains(&service)),
        };
        let side = |zone: Option<ZoneId>, list: fn(&Zone) -> &Services| {
            zone.and_then(|zone| self.zone(zone))
                .is_none_or(|zone| lets(list(zone)))
        };
        side(from, |zone| &zone.outbound) && side(to, |zone| &zone.inbound)
    }

    /// Judges a connection from `src`, which came in by `in_port`, to `dst`, by this proxy.
    ///
    /// # Errors
    /// If the zones do not allow it: both, and the service.
    pub fn judge(
        &self,
        src: Ipv4Addr,
        in_port: Option<PortId>,
        dst: Ipv4Addr,
        proxy: Endpoint,
    ) -> Result<(), ZoneDenial> {
        let denial = ZoneDenial {
            from: self.zone_of(src, in_port),
            to: self.zone_of(dst, None),
            service: self.service_of(proxy),
        };
        if self.allowed(denial.from, denial.to, denial.service) {
            Ok(())
        } else {
            Err(denial)
        }
    }

    /// The first addresses of stretches that can lie in different zones.
    pub(crate) fn edges(&self) -> Vec<u32> {
        let mut edges = Vec::new();
        for (of, zones) in &self.networks {
            for first in zones.keys() {
                edges.push(*first);
                edges.extend((first | !of.mask().to_bits()).checked_add(1));
            }
        }
        edges
    }

    fn zone(&self, id: ZoneId) -> Option<&Zone> {
        self.zones.get(usize::from(id.0))
    }
}

/// The first list from a zone up to its outermost parent; parents are known to end.
fn inherited<'z>(
    zones: &'z [ZoneSpec],
    zone: &'z ZoneSpec,
    list: fn(&ZoneSpec) -> &Option<Vec<String>>,
) -> Option<&'z [String]> {
    let mut at = Some(zone);
    while let Some(zone) = at {
        if let Some(list) = list(zone) {
            return Some(list);
        }
        at = zone.parent.and_then(|parent| zones.get(parent));
    }
    None
}

fn services_of(
    list: Option<&[String]>,
    named: &HashMap<String, ServiceId>,
    zone: &ZoneSpec,
) -> Result<Services, ZoneError> {
    let Some(list) = list else {
        return Ok(Services::All);
    };
    let mut services = Vec::new();
    let mut is_all = false;
    for name in list {
        match named.get(name) {
            Some(service) => services.push(*service),
            None if name == "*" => is_all = true,
            None => {
                return Err(ZoneError::NoSuchService {
                    zone: zone.name.clone(),
                    service: name.clone(),
                });
            }
        }
    }
    Ok(if is_all {
        Services::All
    } else {
        Services::Some(services)
    })
}
