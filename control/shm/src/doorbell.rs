//! The eventfd by which clients wake the server.
//!
//! Invariant: neither end ever blocks on it, whatever flags and counts the other end sets: they
//! belong to the open file, which both share.

use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, ReadWriteFlags, preadv2, write};

/// Makes one.
pub(crate) fn create() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Makes it readable.
pub(crate) fn ring(bell: impl AsFd) -> io::Result<()> {
    loop {
        match write(&bell, &1_u64.to_ne_bytes()) {
            // Full, so it is readable.
            Ok(_) | Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Makes it unreadable until it is rung again.
pub(crate) fn silence(bell: impl AsFd) -> io::Result<()> {
    let mut count = [0; 8];
    let mut into = [IoSliceMut::new(&mut count)];
    // A plain read would block if the client took `O_NONBLOCK` away.
    let how = ReadWriteFlags::NOWAIT;
    match preadv2(bell, &mut into, u64::MAX, how) {
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
