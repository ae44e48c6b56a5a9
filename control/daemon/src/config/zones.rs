//! Zones and the networks in them, and who may always come in.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use ipnet::Ipv4Net;
use toml::Spanned;

use super::check::out_of_range;
use super::error::Fault;
use super::text::{ManagementTable, ZoneTable};
use super::{Management, Zone};

pub fn zones(tables: BTreeMap<String, ZoneTable>) -> Result<BTreeMap<String, Zone>, Fault> {
    let mut owners: BTreeMap<Ipv4Net, String> = BTreeMap::new();
    let mut zones = BTreeMap::new();
    for (name, table) in tables {
        let mut zone = Zone::default();
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
    Ok(zones)
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
    let name = given.get_ref();
    zones.get(name).ok_or_else(|| {
        let hint = match host::nearest(name, zones.keys().map(String::as_str)) {
            Some(near) => format!("did you mean {near}?"),
            None => "define it in a [zone.NAME] of its name".to_owned(),
        };
        Fault::new(
            given.span(),
            format!("zone {name:?} is not defined; {hint}"),
        )
    })
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
