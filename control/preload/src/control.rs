//! The control message with the original addresses, behind those that the kernel wrote.

use crate::answers::Original;
use crate::option::IP_RECVORIGADDRS;

/// Length of `struct cmsghdr`.
const HEADER: usize = size_of::<libc::cmsghdr>();

/// Source and destination, then their ports.
const ADDRESSES: usize = 12;

/// `CMSG_LEN`: the message without what follows for alignment.
pub const LEN: usize = HEADER + ADDRESSES;

/// `CMSG_SPACE`: where the next message would begin.
const SPACE: usize = LEN.next_multiple_of(size_of::<usize>());

/// Where in a buffer of so many bytes, of which so many are used, the message goes, and how many are
/// used then. Nothing if there is no room.
pub fn place(used: usize, room: usize) -> Option<(usize, usize)> {
    let at = used.checked_next_multiple_of(size_of::<usize>())?;
    let end = at.checked_add(LEN)?;
    (end <= room).then(|| (at, room.min(at + SPACE)))
}

/// The message's bytes.
pub fn message(original: Original) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    let (size, rest) = bytes.split_at_mut(size_of::<usize>());
    size.copy_from_slice(&LEN.to_ne_bytes());
    rest[..4].copy_from_slice(&libc::SOL_IP.to_ne_bytes());
    rest[4..8].copy_from_slice(&IP_RECVORIGADDRS.to_ne_bytes());
    let Original {
        source,
        destination,
    } = original;
    let body = &mut bytes[HEADER..];
    body[..4].copy_from_slice(&source.ip().octets());
    body[4..8].copy_from_slice(&destination.ip().octets());
    body[8..10].copy_from_slice(&source.port().to_be_bytes());
    body[10..].copy_from_slice(&destination.port().to_be_bytes());
    bytes
}
