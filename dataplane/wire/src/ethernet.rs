//! Ethernet and 802.1Q.

use core::fmt;

/// Bytes of an untagged Ethernet header.
pub const ETHERNET_BYTES: usize = 14;
/// Bytes that each 802.1Q tag adds.
pub const VLAN_TAG_BYTES: usize = 4;

/// A 48-bit MAC address, in wire order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An EtherType, in host order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// An 802.1Q customer tag.
    pub const VLAN: Self = Self(0x8100);
    /// An 802.1ad service tag.
    pub const QINQ: Self = Self(0x88a8);
}

/// Writes the destination MAC of a frame. A frame without room for one stays as it is.
pub fn set_destination(frame: &mut [u8], mac: MacAddr) {
    if let Some(field) = frame.get_mut(0..6) {
        field.copy_from_slice(&mac.0);
    }
}

/// Writes the source MAC of a frame. A frame without room for one stays as it is.
pub fn set_source(frame: &mut [u8], mac: MacAddr) {
    if let Some(field) = frame.get_mut(6..12) {
        field.copy_from_slice(&mac.0);
    }
}
