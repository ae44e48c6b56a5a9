//! An address and a port as records carry them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use bytemuck::{Pod, Zeroable};

/// Values of `family`: the system's own.
const NONE: u16 = 0;
const IPV4: u16 = 2;
const IPV6: u16 = 10;

/// An address and a port, or none.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub(crate) struct EndpointRecord {
    family: u16,
    port: u16,
    /// Interface of a link-local IPv6 address.
    scope: u32,
    /// As on the wire; IPv4 takes the first four.
    address: [u8; 16],
}

const _: () = assert!(size_of::<EndpointRecord>() == 24);

impl EndpointRecord {
    pub(crate) fn new(endpoint: Option<SocketAddr>) -> Self {
        let Some(endpoint) = endpoint else {
            return Self::zeroed();
        };
        let (family, scope, address) = match endpoint {
            SocketAddr::V4(v4) => {
                let mut address = [0; 16];
                address[..4].copy_from_slice(&v4.ip().octets());
                (IPV4, 0, address)
            }
            SocketAddr::V6(v6) => (IPV6, v6.scope_id(), v6.ip().octets()),
        };
        Self {
            family,
            port: endpoint.port(),
            scope,
            address,
        }
    }

    /// What it says, or nothing if it says what cannot be.
    pub(crate) fn parse(self) -> Option<Option<SocketAddr>> {
        let v4 = Ipv4Addr::from(*self.address.first_chunk()?);
        match self.family {
            NONE if self == Self::zeroed() => Some(None),
            IPV4 if self.scope == 0 && self.address[4..] == [0; 12] => {
                Some(Some(SocketAddrV4::new(v4, self.port).into()))
            }
            IPV6 => {
                let v6 = Ipv6Addr::from(self.address);
                Some(Some(SocketAddrV6::new(v6, self.port, 0, self.scope).into()))
            }
            _ => None,
        }
    }
}
