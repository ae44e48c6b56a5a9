//! Zones and the networks in them, and who may always come in.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use ipnet::Ipv4Net;
use toml::Spanned;

use super::check::out_of_range;
use super::error::Fault;
use super::text::{ManagementTable, ZoneTable};
use super::{Management, Service, Zone};

/// The zones, and the zone of each interface that one names.
pub fn zones(
    tables: BTreeMap<String, ZoneTable>,
    services: &BTreeMap<String, Service>,
) -> Result<(BTreeMap<String, Zone>, Vec<InZone>), Fault> {
    parents(&tables)?;
    let mut interfaces = Vec::new();
    let mut owners: BTreeMap<Ipv4Net, String> = BTreeMap::new();
    let mut zones = BTreeMap::new();
    for (name, table) in tables {
        let mut zone = Zone {
            parent: table.parent.map(Spanned::into_inner),
            inbound: listed(table.inbound_services, services)?,
            outbound: listed(table.outbound_services, services)?,
            ..Zone::default()
        };
        let here = table.interfaces.into_iter();
        interfaces.extend(here.map(|interface| InZone {
            interface,
            zone: name.clone(),
        }));
        for given in &table.networks {
            let network = network(given, "networks")?;
            match owners.insert(network, name.clone()) {
                Some(other) if other == name => {
                    return Err(twice(given.span(), network, &name));
                }
                Some(other) => {
                    return Err(Fault::new(
                        given.span(),
                        format!(
                            "network {network} is in zone {other} and in zone {name}; a network has one zone"
                        ),
                    ));
                }
                None => zone.networks.push(network),
            }
        }
        zones.insert(name, zone);
    }
    Ok((zones, interfaces))
}

/// An interface that a zone names.
pub struct InZone {
    pub interface: Spanned<String>,
    pub zone: String,
}

/// Refuses parents that are no zones, and zones that are a part of themselves.
fn parents(tables: &BTreeMap<String, ZoneTable>) -> Result<(), Fault> {
    for name in tables.keys() {
        let mut circle = vec![name];
        let mut at = name;
        while let Some(parent) = tables.get(at).and_then(|table| table.parent.as_ref()) {
            let (next, _) = tables
                .get_key_value(parent.get_ref())
                .ok_or_else(|| undefined(parent, tables.keys()))?;
            circle.push(next);
            if next == name {
                let names: Vec<&str> = circle.into_iter().map(String::as_str).collect();
                let message = format!(
                    "zone {name} is a part of itself: {}; remove one parent",
                    names.join(" in ")
                );
                return Err(Fault::new(parent.span(), message));
            }
            if circle.len() > tables.len() {
                // Another zone's circle, which is told of when its turn comes.
                break;
            }
            at = next;
        }
    }
    Ok(())
}

/// A list of services, each of which must be there, or `*`.
fn listed(
    given: Option<Vec<Spanned<String>>>,
    services: &BTreeMap<String, Service>,
) -> Result<Option<Vec<String>>, Fault> {
    let check = |name: Spanned<String>| {
        let known = name.get_ref() == "*" || services.contains_key(name.get_ref());
        if known {
            return Ok(name.into_inner());
        }
        let near = host::nearest(name.get_ref(), services.keys().map(String::as_str));
        let hint = match near {
            Some(near) => format!("did you mean {near}?"),
            None => "define it in a [service.NAME] of its name, or write \"*\" for all".to_owned(),
        };
        let message = format!("service {:?} is not defined; {hint}", name.get_ref());
        Err(Fault::new(name.span(), message))
    };
    given
        .map(|list| list.into_iter().map(check).collect())
        .transpose()
}

fn twice(span: Range<usize>, network: Ipv4Net, place: &str) -> Fault {
    Fault::new(span, format!("network {network} is twice in {place}"))
}

/// A network that the key `key` names.
pub fn network(given: &Spanned<String>, key: &str) -> Result<Ipv4Net, Fault> {
    let text = given.get_ref();
    let refuse = |reason: String| Fault::new(given.span(), format!("{key}: {reason}"));
    let network: Ipv4Net = text.parse().map_err(|_| {
        refuse(match text.parse::<std::net::Ipv4Addr>() {
            Ok(addr) => format!("{text} has no prefix length; write {addr}/32 for one address"),
            Err(_) if text.contains(':') => {
                format!("{text:?} is IPv6, which is not handled yet; give IPv4 networks")
            }
            Err(_) => format!("{text:?} is not an IPv4 network such as 192.168.1.0/24"),
        })
    })?;
    if network != network.trunc() {
        return Err(refuse(format!(
            "{text} has bits set behind its prefix; write {}",
            network.trunc()
        )));
    }
    Ok(network)
}

pub fn zone_of<'a>(
    given: &Spanned<String>,
    zones: &'a BTreeMap<String, Zone>,
) -> Result<&'a Zone, Fault> {
    let zone = zones.get(given.get_ref());
    zone.ok_or_else(|| undefined(given, zones.keys()))
}

fn undefined<'a>(given: &Spanned<String>, names: impl Iterator<Item = &'a String>) -> Fault {
    let name = given.get_ref();
    let hint = match host::nearest(name, names.map(String::as_str)) {
        Some(near) => format!("did you mean {near}?"),
        None => "define it in a [zone.NAME] of its name".to_owned(),
    };
    Fault::new(
        given.span(),
        format!("zone {name:?} is not defined; {hint}"),
    )
}

pub fn management(
    entry: Spanned<ManagementTable>,
    zones: &BTreeMap<String, Zone>,
) -> Result<Management, Fault> {
    let span = entry.span();
    let entry = entry.into_inner();
    let (zone, networks) = match (entry.zone, entry.networks) {
        (Some(zone), None) => {
            let networks = zone_of(&zone, zones)?.networks.clone();
            if networks.is_empty() {
                return Err(Fault::new(
                    zone.span(),
                    format!(
                        "zone {} has no networks, so nobody could manage the box from it; give \
                         [zone.{0}] networks, or networks here",
                        zone.get_ref()
                    ),
                ));
            }
            (Some(zone.into_inner()), networks)
        }
        (None, Some(list)) => (None, management_networks(&list)?),
        (Some(_), Some(list)) => {
            return Err(Fault::new(
                list.span(),
                "management: give zone or networks, not both",
            ));
        }
        (None, None) => {
            return Err(Fault::new(
                span,
                "management needs zone = \"NAME\" or networks = [...]: who may always come in",
            ));
        }
    };
    let port = u16::try_from(*entry.port.get_ref())
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| out_of_range(&entry.port, "port", &(1..=65535)))?;
    Ok(Management {
        zone,
        networks,
        proto: entry.proto,
        port,
    })
}

fn management_networks(list: &Spanned<Vec<Spanned<String>>>) -> Result<Vec<Ipv4Net>, Fault> {
    let mut seen = BTreeSet::new();
    let mut networks = Vec::new();
    for given in list.get_ref() {
        let network = network(given, "networks")?;
        if !seen.insert(network) {
            return Err(twice(given.span(), network, "this entry"));
        }
        networks.push(network);
    }
    if networks.is_empty() {
        return Err(Fault::new(
            list.span(),
            "management: networks is empty; name who may always come in",
        ));
    }
    Ok(networks)
}
