//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// The unfolded ones' complement sum of `bytes` taken as big-endian 16-bit words,
/// an odd last byte padded with zero. Holds for up to 128 KiB.
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut wide: u64 = words
        .iter()
        .map(|&w| u64::from(u32::from_be_bytes(w)))
        .sum();
    let (pairs, odd) = rest.as_chunks::<2>();
    wide += pairs
        .iter()
        .map(|&p| u64::from(u16::from_be_bytes(p)))
        .sum::<u64>();
    wide += odd.iter().map(|&b| u64::from(b) << 8).sum::<u64>();
    // Two folds bring any 64-bit sum of 32-bit words below 2^32.
    wide = (wide >> 32) + (wide & 0xffff_ffff);
    wide = (wide >> 32) + (wide & 0xffff_ffff);
    u32::from(fold(wide as u32))
}

/// Folds a sum into 16 bits.
#[must_use]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// The sum of the TCP and UDP pseudo header (RFC 9293 3.1), unfolded.
#[must_use]
pub const fn pseudo_header(src: u32, dst: u32, proto: u8, length: u16) -> u32 {
    (src >> 16) + (src & 0xffff) + (dst >> 16) + (dst & 0xffff) + proto as u32 + length as u32
}

/// A change of some header words, ready to be applied to every checksum that covers them.
///
/// `HC' = ~(~HC + ~m + m')` (RFC 1624, eqn 3): the delta is the sum of all `~m + m'`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Delta(u16);

impl Delta {
    /// No change.
    pub const ZERO: Self = Self(0);

    /// This change and that of one 16-bit word from `old` to `new`.
    #[must_use]
    pub const fn word(self, old: u16, new: u16) -> Self {
        Self(fold(self.0 as u32 + (!old) as u32 + new as u32))
    }

    /// This change and that of a 32-bit field from `old` to `new`.
    #[must_use]
    pub const fn long(self, old: u32, new: u32) -> Self {
        self.word((old >> 16) as u16, (new >> 16) as u16)
            .word(old as u16, new as u16)
    }

    /// The checksum that stands after the change where `check` stood before it.
    #[must_use]
    pub const fn apply(self, check: u16) -> u16 {
        !fold((!check) as u32 + self.0 as u32)
    }
}
