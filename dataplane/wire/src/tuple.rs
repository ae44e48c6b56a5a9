//! The names of a flow's ends.

use core::fmt;
use core::net::Ipv4Addr;

/// An IP protocol number (the IPv4 `Protocol` field).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// ICMP (RFC 792).
    pub const ICMP: Self = Self(1);
    /// TCP (RFC 9293).
    pub const TCP: Self = Self(6);
    /// UDP (RFC 768).
    pub const UDP: Self = Self(17);

    /// The name as iptables writes it, for the protocols that have ports or types here.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        match self {
            Self::ICMP => Some("icmp"),
            Self::TCP => Some("tcp"),
            Self::UDP => Some("udp"),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One end of a flow: address and port. The address family is a parameter, so
/// that IPv6 is another `A` and not another type.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint<A = Ipv4Addr> {
    /// The address.
    pub addr: A,
    /// The port in host order; 0 where the protocol has none.
    pub port: u16,
}

impl<A> Endpoint<A> {
    /// An endpoint of `addr` and `port` (host order).
    pub const fn new(addr: A, port: u16) -> Self {
        Self { addr, port }
    }
}

impl<A: fmt::Display> fmt::Display for Endpoint<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.addr, self.port)
    }
}

impl<A: fmt::Display> fmt::Debug for Endpoint<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What names a packet's flow: protocol, source and destination as they stand in the packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple<A = Ipv4Addr> {
    /// The transport protocol.
    pub proto: Protocol,
    /// Where the packet comes from.
    pub src: Endpoint<A>,
    /// Where the packet goes.
    pub dst: Endpoint<A>,
}

impl<A: Copy> Tuple<A> {
    /// The tuple of a packet that answers this one.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self {
            proto: self.proto,
            src: self.dst,
            dst: self.src,
        }
    }
}

impl<A: fmt::Display> fmt::Display for Tuple<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.proto, self.src, self.dst)
    }
}

impl<A: fmt::Display> fmt::Debug for Tuple<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
