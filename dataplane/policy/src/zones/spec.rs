//! Zones and services as the configuration has them, and what is wrong with them.

use std::net::Ipv4Addr;

use wire::Endpoint;

use crate::PortId;

/// A zone as the configuration has it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ZoneSpec {
    /// Its name.
    pub name: String,
    /// Address and prefix length of its networks.
    pub networks: Vec<(Ipv4Addr, u8)>,
    /// The ports whose senders belong to it if no network claims them.
    pub ports: Vec<PortId>,
    /// The zone that it lies in, by its place in the list.
    pub parent: Option<usize>,
    /// The services that its addresses offer, or `*`; none for the parent's list.
    pub inbound: Option<Vec<String>>,
    /// The services that its addresses may use, or `*`; none for the parent's list.
    pub outbound: Option<Vec<String>>,
}

/// A service as the configuration has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceSpec {
    /// Its name.
    pub name: String,
    /// Where its proxy listens, by TCP or UDP.
    pub proxy: Endpoint,
}

/// Why zones and services do not fit together.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ZoneError {
    /// There are more than can be counted.
    #[error("more than {} zones or services", u16::MAX)]
    TooMany,
    /// A name is given twice.
    #[error("{0} is there twice; names must differ")]
    NameTwice(String),
    /// A zone lies in one that is not there.
    #[error("zone {zone} lies in a zone that does not exist")]
    NoSuchParent {
        /// The zone.
        zone: String,
    },
    /// A zone lies in itself.
    #[error("zone {zone} lies in itself by way of its parents")]
    Circle {
        /// The zone.
        zone: String,
    },
    /// A prefix is longer than an address.
    #[error("zone {zone}: /{bits} is no prefix length; 0 to 32 are")]
    NoPrefix {
        /// The zone.
        zone: String,
        /// What was given.
        bits: u8,
    },
    /// Two zones claim one network.
    #[error(
        "{addr}/{bits} belongs to zone {first} and to zone {second}; one of them must leave it"
    )]
    NetworkTwice {
        /// The network's address.
        addr: Ipv4Addr,
        /// Its prefix length.
        bits: u8,
        /// The zone that has it.
        first: String,
        /// The zone that claims it too.
        second: String,
    },
    /// Two zones claim one port.
    #[error("zones {first} and {second} claim one port; one of them must leave it")]
    PortTwice {
        /// The zone that has it.
        first: String,
        /// The zone that claims it too.
        second: String,
    },
    /// A list names a service that is not there.
    #[error("zone {zone} lists service {service}, which does not exist")]
    NoSuchService {
        /// The zone.
        zone: String,
        /// The name.
        service: String,
    },
    /// Two services have one proxy.
    #[error("services {first} and {second} have one proxy; a connection is known by its proxy")]
    ProxyTwice {
        /// The service that has it.
        first: String,
        /// The service that names it too.
        second: String,
    },
}

pub(super) fn check_names_and_parents(zones: &[ZoneSpec]) -> Result<(), ZoneError> {
    let mut seen = std::collections::HashSet::new();
    for zone in zones {
        if !seen.insert(&zone.name) {
            return Err(ZoneError::NameTwice(zone.name.clone()));
        }
    }
    // 0: not looked at; n: met on the way up from zone n - 1, or settled by it.
    let mut met = vec![0usize; zones.len()];
    for (turn, zone) in (1..).zip(zones) {
        let mut at = Some((turn - 1, zone));
        while let Some((index, here)) = at {
            match met.get_mut(index) {
                Some(mark) if *mark == 0 => *mark = turn,
                Some(mark) if *mark == turn => {
                    let zone = here.name.clone();
                    return Err(ZoneError::Circle { zone });
                }
                _ => break,
            }
            at = match here.parent {
                None => None,
                Some(parent) => {
                    let zone = || here.name.clone();
                    let next = zones.get(parent);
                    Some((
                        parent,
                        next.ok_or_else(|| ZoneError::NoSuchParent { zone: zone() })?,
                    ))
                }
            };
        }
    }
    Ok(())
}
