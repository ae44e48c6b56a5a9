//! Descriptors that stay out of a program's way.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::fcntl_dupfd_cloexec;

/// The first number that is not standard input, output or error: daemons close those, and open
/// them anew expecting the same numbers.
const FIRST: i32 = 3;

/// The same file with a number that is none of the standard ones.
pub(crate) fn above_standard(fd: OwnedFd) -> io::Result<OwnedFd> {
    if fd.as_raw_fd() >= FIRST {
        return Ok(fd);
    }
    Ok(fcntl_dupfd_cloexec(fd, FIRST)?)
}
