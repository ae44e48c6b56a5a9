//! Single endpoints that are diverted on every port, from the moment that they are told.
//!
//! Invariant: a key of the map has a direction's bit as long as anybody wants that direction
//! there. As long as an endpoint is there, so is the marker of its address and protocol.

use std::collections::HashMap;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use libbpf_rs::{ErrorKind, MapCore, MapFlags, MapHandle, MapType};
use libbpf_sys::{BPF_F_NO_PREALLOC, bpf_map_create_opts};

use crate::object::require_privilege;
use crate::records::{self, Direction, ENDPOINT_BYTES};
use crate::{Error, messages};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// The kernel's table of buckets has an end, and so have the ports of an address.
const MOST: u32 = 1 << 24;

/// A protocol and an endpoint of the box; port 0 is the marker of the address.
type Key = (u8, SocketAddrV4);

/// The map behind [`Endpoints`], for [`crate::PortProgram::load`].
#[derive(Clone, Debug)]
pub struct EndpointMap(Arc<MapHandle>);

impl EndpointMap {
    /// Whether anything to or from an endpoint is diverted.
    pub fn has(&self, proto: u8, at: SocketAddrV4) -> Result<bool, Error> {
        let found = self.0.lookup(&records::endpoint(proto, at), MapFlags::ANY);
        let found =
            found.map_err(|error| Error::from_libbpf(format!("asking about {at}"), &error))?;
        Ok(found.is_some())
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// How many want each direction of a key, and what the map says of it.
#[derive(Clone, Copy, Default, Debug)]
struct Users {
    inbound: u32,
    outbound: u32,
    written: u8,
}

/// One map shared by all ports: endpoints that are diverted. Counts users: an endpoint is
/// released when the last is. Whoever drops this leaves the map as it is to the programs that
/// have it.
#[derive(Debug)]
pub struct Endpoints {
    map: EndpointMap,
    most: usize,
    endpoints: usize,
    keys: HashMap<Key, Users>,
}

impl Users {
    fn bits(self) -> u8 {
        let inbound = (self.inbound > 0).then_some(Direction::Inbound.bits());
        let outbound = (self.outbound > 0).then_some(Direction::Outbound.bits());
        inbound.unwrap_or(0) | outbound.unwrap_or(0)
    }

    /// Counts one more for each bit. The bits that have their first user.
    fn join(&mut self, bits: u8) -> u8 {
        let before = self.bits();
        self.inbound += u32::from(bits & Direction::Inbound.bits() != 0);
        self.outbound += u32::from(bits & Direction::Outbound.bits() != 0);
        self.bits() & !before
    }

    /// Counts one less for each bit. The bits that have lost their last user.
    fn leave(&mut self, bits: u8) -> u8 {
        let before = self.bits();
        self.inbound -= u32::from(bits & Direction::Inbound.bits() != 0);
        self.outbound -= u32::from(bits & Direction::Outbound.bits() != 0);
        before & !self.bits()
    }
}

impl Endpoints {
    /// Makes the map, empty, for at most so many endpoints.
    pub fn create(most: u32) -> Result<Self, Error> {
        messages::divert();
        records::limit(|| "diverted endpoints".into(), most as usize, MOST as usize)?;
        let what = format!("making the map of {most} diverted endpoints");
        require_privilege(&what)?;
        let opts = bpf_map_create_opts {
            sz: size_of::<bpf_map_create_opts>() as libbpf_sys::size_t,
            map_flags: BPF_F_NO_PREALLOC,
            ..Default::default()
        };
        // In the worst case each endpoint has an address of its own, hence a marker.
        let map = MapHandle::create(
            MapType::Hash,
            Some("xtp_endpoints"),
            ENDPOINT_BYTES as u32,
            1,
            2 * most.max(1),
            &opts,
        )
        .map_err(|error| Error::from_libbpf(what, &error))?;
        Ok(Self {
            map: EndpointMap(Arc::new(map)),
            most: most as usize,
            endpoints: 0,
            keys: HashMap::new(),
        })
    }

    /// Diverts what comes to an endpoint, or what the kernel sends from it, or both, on all
    /// ports. A refusal changes nothing.
    pub fn divert(
        &mut self,
        proto: u8,
        at: SocketAddrV4,
        direction: Direction,
    ) -> Result<(), Error> {
        let key = (proto, at);
        check(key)?;
        if self.bits(key) == 0 {
            let asked = self.endpoints + 1;
            records::limit(|| format!("diverting {}", name(key)), asked, self.most)?;
            self.endpoints += 1;
        }
        let bits = direction.bits();
        let first = self.keys.entry(key).or_default().join(bits);
        self.keys.entry(marker(key)).or_default().join(first);
        // A tail is known by the marker alone: it comes first and goes last.
        let told = self
            .tell(marker(key), key)
            .and_then(|()| self.tell(key, key));
        if told.is_err() {
            drop(self.leave(key, bits));
        }
        told
    }

    /// Takes back one call of [`Endpoints::divert`]. With the last, the endpoint is the
    /// kernel's again. If the map cannot be changed, it stays diverted until it is next
    /// diverted and released.
    pub fn release(
        &mut self,
        proto: u8,
        at: SocketAddrV4,
        direction: Direction,
    ) -> Result<(), Error> {
        let key = (proto, at);
        check(key)?;
        let bits = direction.bits();
        if self.bits(key) & bits != bits {
            let what = format!("releasing {}: it is not diverted", name(key));
            return Err(Error::Invalid { what });
        }
        self.leave(key, bits)
    }

    /// How many endpoints are diverted.
    #[must_use]
    pub fn len(&self) -> usize {
        self.endpoints
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.endpoints == 0
    }

    /// What the programs of a port need to know of them.
    #[must_use]
    pub fn map(&self) -> EndpointMap {
        self.map.clone()
    }

    fn bits(&self, key: Key) -> u8 {
        self.keys.get(&key).map_or(0, |users| users.bits())
    }

    fn leave(&mut self, key: Key, bits: u8) -> Result<(), Error> {
        let last = self.keys.entry(key).or_default().leave(bits);
        self.keys.entry(marker(key)).or_default().leave(last);
        if self.bits(key) == 0 {
            self.endpoints -= 1;
        }
        let told = self.tell(key, key);
        told.and(self.tell(marker(key), key))
    }

    /// Makes the map say of a key what its users want; one system call, or none. An error
    /// names the endpoint that is `asked` for.
    fn tell(&mut self, key: Key, asked: Key) -> Result<(), Error> {
        let users = self.keys.entry(key).or_default();
        let (want, map) = (users.bits(), &self.map.0);
        if want != users.written {
            let record = records::endpoint(key.0, key.1);
            if want == 0 {
                map.delete(&record).or_else(|error| match error.kind() {
                    ErrorKind::NotFound => Ok(()),
                    _ => Err(told_in_vain("releasing", asked, &error)),
                })?;
            } else {
                map.update(&record, &[want], MapFlags::ANY)
                    .map_err(|error| told_in_vain("diverting", asked, &error))?;
            }
            users.written = want;
        }
        if want == 0 {
            self.keys.remove(&key);
        }
        Ok(())
    }
}

/// Tails of other protocols are judged by their protocol; and port 0 is the marker's.
fn check(key: Key) -> Result<(), Error> {
    let (proto, at) = key;
    let wrong = if proto != TCP && proto != UDP {
        "only TCP (6) and UDP (17) have endpoints"
    } else if at.port() == 0 || at.ip().is_unspecified() {
        "an endpoint has an address and a port"
    } else {
        return Ok(());
    };
    Err(Error::Invalid {
        what: format!("{}: {wrong}", name(key)),
    })
}

fn marker((proto, at): Key) -> Key {
    (proto, SocketAddrV4::new(*at.ip(), 0))
}

fn name((proto, at): Key) -> String {
    match proto {
        TCP => format!("the endpoint tcp {at}"),
        UDP => format!("the endpoint udp {at}"),
        _ => format!("the endpoint {at} of protocol {proto}"),
    }
}

fn told_in_vain(doing: &str, key: Key, error: &libbpf_rs::Error) -> Error {
    Error::from_libbpf(format!("{doing} {}", name(key)), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Direction::{Both, Inbound, Outbound};

    const HERE: SocketAddrV4 = SocketAddrV4::new(std::net::Ipv4Addr::new(192, 168, 1, 1), 5000);

    fn record(endpoints: &Endpoints, at: SocketAddrV4) -> Option<Vec<u8>> {
        let key = records::endpoint(UDP, at);
        endpoints.map.0.lookup(&key, MapFlags::ANY).unwrap()
    }

    /// A frozen map refuses every change from user space.
    #[test]
    fn the_map_is_asked_only_for_a_change_and_a_refusal_changes_nothing() {
        let mut endpoints = Endpoints::create(4).unwrap();
        endpoints.divert(UDP, HERE, Inbound).unwrap();
        endpoints.map.0.freeze().unwrap();
        endpoints.divert(UDP, HERE, Inbound).unwrap();
        endpoints.release(UDP, HERE, Inbound).unwrap();
        let error = endpoints.divert(UDP, HERE, Both).unwrap_err();
        assert!(
            error.to_string().contains("udp 192.168.1.1:5000"),
            "{error}"
        );
        endpoints.release(UDP, HERE, Outbound).unwrap_err();
        let other = SocketAddrV4::new(*HERE.ip(), 5001);
        endpoints.divert(UDP, other, Inbound).unwrap_err();
        assert_eq!(endpoints.len(), 1);
        let error = endpoints.release(UDP, HERE, Inbound).unwrap_err();
        assert!(
            error.to_string().contains("udp 192.168.1.1:5000"),
            "{error}"
        );
        assert!(endpoints.is_empty());
    }

    #[test]
    fn what_could_not_be_released_is_when_it_next_goes() {
        let mut endpoints = Endpoints::create(1).unwrap();
        endpoints.divert(UDP, HERE, Both).unwrap();
        let marker = SocketAddrV4::new(*HERE.ip(), 0);
        assert_eq!(record(&endpoints, marker), Some(vec![3]));
        // As after a release in vain: nobody's, but still in the map.
        for key in [(UDP, HERE), (UDP, marker)] {
            endpoints.keys.get_mut(&key).unwrap().leave(3);
        }
        endpoints.endpoints = 0;
        endpoints.divert(UDP, HERE, Inbound).unwrap();
        assert_eq!(record(&endpoints, HERE), Some(vec![1]));
        endpoints.release(UDP, HERE, Inbound).unwrap();
        assert_eq!(
            (record(&endpoints, HERE), record(&endpoints, marker)),
            (None, None)
        );
        assert!(endpoints.keys.is_empty());
    }
}
