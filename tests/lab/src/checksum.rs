//! Internet checksums, computed the slow way: the lab trusts no code that it tests.

use std::net::Ipv4Addr;

/// One's complement sum of 16-bit words, folded, not complemented.
pub fn sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0_u64;
    for part in parts {
        for pair in part.chunks(2) {
            let high = pair.first().copied().unwrap_or_default();
            let low = pair.get(1).copied().unwrap_or_default();
            total += u64::from(u16::from_be_bytes([high, low]));
        }
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(u16::MAX)
}

/// The pseudo header of TCP and UDP over IPv4.
pub fn pseudo_header(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, len: usize) -> [u8; 12] {
    let [a, b, c, d] = from.octets();
    let [e, f, g, h] = to.octets();
    let [i, j] = u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
    [a, b, c, d, e, f, g, h, 0, protocol, i, j]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_with_carry_and_odd_length() {
        assert_eq!(sum(&[&[0xff, 0xff], &[0x00, 0x02]]), 2);
        assert_eq!(sum(&[&[0x12]]), 0x1200);
        // The example of RFC 1071, section 3.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(sum(&[&bytes]), 0xddf2);
    }
}
