//! The numbers of our channel's descriptors, which the program must not close: it does not know
//! of them, and a number used again for something else would be written to.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicI32, Ordering};

/// No descriptor.
const NONE: RawFd = -1;

/// At most as many: the channel has two, and the daemon's folder is held.
const MOST: usize = 4;

static OURS: [AtomicI32; MOST] = [const { AtomicI32::new(NONE) }; MOST];

/// Whether it is one of ours.
#[inline]
pub fn is_ours(fd: RawFd) -> bool {
    fd != NONE && OURS.iter().any(|ours| ours.load(Ordering::Relaxed) == fd)
}

/// Says which are ours from now on.
pub fn publish(fds: &[RawFd]) {
    for (idx, ours) in OURS.iter().enumerate() {
        let fd = fds.get(idx).copied().unwrap_or(NONE);
        if ours.load(Ordering::Relaxed) != fd {
            ours.store(fd, Ordering::Relaxed);
        }
    }
}

/// The pieces of a range of numbers that are left when ours are taken out, without allocating:
/// one more than there can be of ours.
pub fn spare(first: u32, last: u32) -> impl Iterator<Item = (u32, u32)> {
    let mut ours = OURS.each_ref().map(|ours| ours.load(Ordering::Relaxed));
    ours.sort_unstable();
    pieces(ours, first, last)
}

/// [`spare`] for given numbers, in order.
pub(crate) fn pieces(
    ours: [RawFd; MOST],
    first: u32,
    last: u32,
) -> impl Iterator<Item = (u32, u32)> {
    // Wide enough that one more than the last number is a number.
    let mut next = u64::from(first);
    let end = u64::from(last) + 1;
    let held = ours.into_iter().filter_map(|fd| u64::try_from(fd).ok());
    held.filter(move |fd| (u64::from(first)..end).contains(fd))
        .chain([end])
        .filter_map(move |stop| {
            let piece = (next < stop).then(|| (next as u32, (stop - 1) as u32));
            next = stop + 1;
            piece
        })
}
