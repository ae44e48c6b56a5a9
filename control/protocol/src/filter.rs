//! Which flows a request is about.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Flow, FlowKind, FlowState};

/// Which flows a request is about: those that match every field that is set. The
/// addresses and ports are those of the original direction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowFilter {
    /// The flow of this id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The protocol: a name or a number.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "proto_text")]
    pub proto: Option<u8>,
    /// The source address is one of this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<Network>,
    /// The source port is one of this range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sport: Option<PortRange>,
    /// The destination address is one of this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<Network>,
    /// The destination port is one of this range.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dport: Option<PortRange>,
    /// The kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<FlowKind>,
    /// The state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<FlowState>,
}

impl FlowFilter {
    /// Whether no field is set, so that every flow matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether `flow` is one of those that are meant.
    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        fn accept<T>(wanted: &Option<T>, test: impl FnOnce(&T) -> bool) -> bool {
            wanted.as_ref().is_none_or(test)
        }
        accept(&self.id, |id| *id == flow.id)
            && accept(&self.proto, |proto| {
                proto_number(&flow.proto) == Some(*proto)
            })
            && accept(&self.src, |network| network.contains(flow.orig.src))
            && accept(&self.sport, |range| range.contains(flow.orig.sport))
            && accept(&self.dst, |network| network.contains(flow.orig.dst))
            && accept(&self.dport, |range| range.contains(flow.orig.dport))
            && accept(&self.kind, |kind| *kind == flow.kind)
            && accept(&self.state, |state| *state == flow.state)
    }
}

/// Why a word of a filter was not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError(String);

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FilterError {}

/// The number of a protocol that is given by name or number.
#[must_use]
pub fn proto_number(text: &str) -> Option<u8> {
    match text {
        "icmp" => Some(1),
        "tcp" => Some(6),
        "udp" => Some(17),
        _ => text.parse().ok(),
    }
}

/// The name of a protocol, or its number where it has no name here.
#[must_use]
pub fn proto_name(number: u8) -> String {
    match number {
        1 => "icmp".into(),
        6 => "tcp".into(),
        17 => "udp".into(),
        _ => number.to_string(),
    }
}

mod proto_text {
    use super::{Deserialize, Deserializer, Serializer, proto_name, proto_number};

    #[expect(clippy::ref_option, reason = "the form that serde asks for")]
    pub(super) fn serialize<S: Serializer>(proto: &Option<u8>, s: S) -> Result<S::Ok, S::Error> {
        match proto {
            Some(number) => s.serialize_str(&proto_name(*number)),
            None => s.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u8>, D::Error> {
        let Some(text) = Option::<String>::deserialize(d)? else {
            return Ok(None);
        };
        let unknown = || {
            serde::de::Error::custom(format!(
                "unknown protocol '{text}': tcp, udp, icmp or 0-255"
            ))
        };
        proto_number(&text).map(Some).ok_or_else(unknown)
    }
}

/// An address and how many of its leading bits count: `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    addr: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether `addr` belongs to it.
    #[must_use]
    pub fn contains(&self, addr: IpAddr) -> bool {
        let differing_bits = match (self.addr, addr) {
            (IpAddr::V4(a), IpAddr::V4(b)) => u128::from(a.to_bits() ^ b.to_bits()) << 96,
            (IpAddr::V6(a), IpAddr::V6(b)) => a.to_bits() ^ b.to_bits(),
            _ => return false,
        };
        differing_bits.leading_zeros() >= u32::from(self.prefix)
    }
}

impl FromStr for Network {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let wrong = || FilterError(format!("'{text}' is not an address or ADDRESS/PREFIX"));
        let (addr, prefix) = match text.split_once('/') {
            Some((addr, prefix)) => (addr, Some(prefix)),
            None => (text, None),
        };
        let addr: IpAddr = addr.parse().map_err(|_| wrong())?;
        let width = if addr.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|p| *p <= width)
                .ok_or_else(wrong)?,
            None => width,
        };
        Ok(Self { addr, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = if self.addr.is_ipv4() { 32 } else { 128 };
        if self.prefix == width {
            write!(f, "{}", self.addr)
        } else {
            write!(f, "{}/{}", self.addr, self.prefix)
        }
    }
}

/// A port, or the ports from one to another: `80`, `1024:65535`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Whether `port` lies in it.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl FromStr for PortRange {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (first, last) = text.split_once([':', '-']).unwrap_or((text, text));
        match (first.parse(), last.parse()) {
            (Ok(first), Ok(last)) if first <= last => Ok(Self { first, last }),
            _ => Err(FilterError(format!(
                "'{text}' is not a port or a range FIRST:LAST"
            ))),
        }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}:{}", self.first, self.last)
        }
    }
}

/// Serde by the text form.
macro_rules! as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

as_text!(Network);
as_text!(PortRange);

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
