//! What one rule asks of a packet.

use std::net::Ipv4Addr;

use crate::PortId;

/// One question of a rule about one field.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Test<T> {
    /// Not asked.
    #[default]
    Any,
    /// The field must be this, or lie in it.
    Is(T),
    /// The field must not be this, nor lie in it.
    Not(T),
}

impl<T> Test<T> {
    /// Whether a field passes, of which `belongs` says whether it is, or lies in, the value.
    #[inline]
    pub fn holds(&self, belongs: impl FnOnce(&T) -> bool) -> bool {
        match self {
            Self::Any => true,
            Self::Is(value) => belongs(value),
            Self::Not(value) => !belongs(value),
        }
    }

    /// Whether the rule asks nothing.
    pub const fn is_any(&self) -> bool {
        matches!(self, Self::Any)
    }
}

/// An address under a mask. The mask need not be contiguous, as iptables has it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Network {
    bits: u32,
    mask: u32,
}

impl Network {
    /// The network that `addr` lies in: bits outside the mask are cleared.
    #[must_use]
    pub const fn new(addr: Ipv4Addr, mask: Ipv4Addr) -> Self {
        Self {
            bits: addr.to_bits() & mask.to_bits(),
            mask: mask.to_bits(),
        }
    }

    /// The network of a prefix; none if it is longer than an address.
    #[must_use]
    pub const fn of_prefix(addr: Ipv4Addr, bits: u8) -> Option<Self> {
        if bits > 32 {
            return None;
        }
        Some(Self::new(addr, Ipv4Addr::from_bits(Self::mask_of(bits))))
    }

    /// The mask of a prefix length of at most 32.
    pub(crate) const fn mask_of(bits: u8) -> u32 {
        match u32::MAX.checked_shl(32 - bits as u32) {
            Some(mask) => mask,
            None => 0,
        }
    }

    /// The lowest address.
    #[must_use]
    pub const fn addr(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.bits)
    }

    /// The mask.
    #[must_use]
    pub const fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.mask)
    }

    /// The length of the mask, if it is contiguous.
    #[must_use]
    pub const fn prefix_bits(self) -> Option<u32> {
        if self.mask.leading_ones() + self.mask.trailing_zeros() >= 32 {
            Some(self.mask.leading_ones())
        } else {
            None
        }
    }

    /// Whether `addr` lies in it.
    #[inline]
    #[must_use]
    pub const fn contains(self, addr: Ipv4Addr) -> bool {
        addr.to_bits() & self.mask == self.bits
    }
}

/// A set of numbers 0 to 255: ports, or protocols.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct ByteSet([u128; 2]);

impl ByteSet {
    pub(crate) const EMPTY: Self = Self([0; 2]);
    pub(crate) const ALL: Self = Self([u128::MAX; 2]);

    pub(crate) const fn of(number: u8) -> Self {
        let bit = 1 << (number & 127);
        Self(if number < 128 { [bit, 0] } else { [0, bit] })
    }

    #[inline]
    pub(crate) const fn contains(self, number: u8) -> bool {
        !self.and(Self::of(number)).is_empty()
    }

    pub(crate) const fn is_empty(self) -> bool {
        let Self([low, high]) = self;
        low | high == 0
    }

    pub(crate) const fn and(self, other: Self) -> Self {
        let (Self([a, b]), Self([c, d])) = (self, other);
        Self([a & c, b & d])
    }

    pub(crate) const fn or(self, other: Self) -> Self {
        let (Self([a, b]), Self([c, d])) = (self, other);
        Self([a | c, b | d])
    }

    pub(crate) const fn complement(self) -> Self {
        let Self([low, high]) = self;
        Self([!low, !high])
    }

    pub(crate) const fn without(self, other: Self) -> Self {
        self.and(other.complement())
    }
}

/// A set of ports of the configuration.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PortSet(pub(crate) ByteSet);

impl PortSet {
    /// No port.
    pub const EMPTY: Self = Self(ByteSet::EMPTY);
    /// Every port, configured or not.
    pub const ALL: Self = Self(ByteSet::ALL);

    /// Whether `port` is one of them.
    #[inline]
    #[must_use]
    pub const fn contains(self, port: PortId) -> bool {
        self.0.contains(port.0)
    }

    /// Whether a packet's port is one of them; an unknown port is only in [`PortSet::ALL`].
    #[inline]
    #[must_use]
    pub fn has(&self, port: Option<PortId>) -> bool {
        port.map_or(*self == Self::ALL, |port| self.contains(port))
    }

    /// Every port that is not in this set.
    #[must_use]
    pub const fn complement(self) -> Self {
        Self(self.0.complement())
    }
}

impl FromIterator<PortId> for PortSet {
    fn from_iter<I: IntoIterator<Item = PortId>>(ports: I) -> Self {
        Self(
            ports
                .into_iter()
                .fold(ByteSet::EMPTY, |set, port| set.or(ByteSet::of(port.0))),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_knows_its_prefix_and_its_members() {
        let net = |a: [u8; 4], m: [u8; 4]| Network::new(a.into(), m.into());
        let prefix = net([10, 1, 2, 3], [255, 255, 0, 0]);
        assert_eq!(
            (prefix.addr(), prefix.prefix_bits()),
            ([10, 1, 0, 0].into(), Some(16))
        );
        assert!(prefix.contains([10, 1, 255, 255].into()));
        assert!(!prefix.contains([10, 2, 0, 0].into()));
        assert_eq!(net([0; 4], [0; 4]).prefix_bits(), Some(0));
        assert_eq!(net([1; 4], [255; 4]).prefix_bits(), Some(32));
        let odd = net([10, 0, 2, 0], [255, 0, 255, 0]);
        assert_eq!(odd.prefix_bits(), None);
        assert!(odd.contains([10, 77, 2, 77].into()));
    }

    #[test]
    fn a_byte_set_holds_what_was_put_in() {
        for n in 0..=255u8 {
            let one = ByteSet::of(n);
            for m in 0..=255u8 {
                assert_eq!(one.contains(m), n == m);
                assert_eq!(one.complement().contains(m), n != m);
            }
            assert!(one.without(one).is_empty());
        }
    }
}
