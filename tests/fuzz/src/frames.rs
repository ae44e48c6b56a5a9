//! Frames out of any bytes.

use wire::checksum;

/// Puts the right IPv4 header checksum into a frame, as far as it has such a header. Without
/// this a fuzzer would hardly ever get past it.
pub(crate) fn repair(frame: &mut [u8]) {
    let mut at = 12;
    while matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8])) {
        at += 4;
    }
    let Some(packet) = frame.get_mut(at + 2..) else {
        return;
    };
    let header_bytes = usize::from(packet.first().map_or(0, |b| b & 0x0f)) * 4;
    let Some(header) = packet.get_mut(..header_bytes) else {
        return;
    };
    if let Some(field) = header.get_mut(10..12) {
        field.fill(0);
        let check = !checksum::fold(checksum::sum(header));
        if let Some(field) = header.get_mut(10..12) {
            field.copy_from_slice(&check.to_be_bytes());
        }
    }
}

/// Cuts pieces off the front of the input.
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    /// The next bytes; zeros where the input has ended.
    pub(crate) fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let rest = self.rest(N);
        if let Some(front) = out.get_mut(..rest.len()) {
            front.copy_from_slice(rest);
        }
        out
    }

    /// At most `most` bytes.
    pub(crate) fn rest(&mut self, most: usize) -> &'a [u8] {
        let (front, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        front
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
