//! The functions that stand before the C library's.
//!
//! They are C-unwind and hold nothing that needs dropping while the C library's runs: a thread can be
//! cancelled in it, which unwinds through here.

#![allow(
    clippy::missing_safety_doc,
    reason = "each is as the C library's function of its name"
)]

use std::ffi::{c_char, c_int, c_uint, c_void};

use libc::{mmsghdr, msghdr, socklen_t, ssize_t, timespec};

use crate::inside::{self, Outcome, fail};
use crate::option::{self, IP_RECVORIGADDRS, IP_TPROXY};
use crate::original::{self, SO_ORIGINAL_DST};
use crate::{channel, datagram, descriptors, real, wishes};

/// Flags of `close_range`.
const UNSHARE: c_int = 1 << 1;

/// Also answers `IP_TPROXY` and `IP_RECVORIGADDRS`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    if level == libc::SOL_IP && matches!(name, IP_TPROXY | IP_RECVORIGADDRS) {
        let answer = || option::set(fd, name, value as usize, len);
        match inside::run(Outcome::Pass, answer) {
            Outcome::Done => return 0,
            Outcome::Fail(errno) => return fail(errno),
            Outcome::Pass => {}
        }
    }
    // SAFETY: the caller's own call.
    unsafe { real::setsockopt(fd, level, name, value, len) }
}

/// Also answers `IP_TPROXY`, `IP_RECVORIGADDRS` and `SO_ORIGINAL_DST`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    if level == libc::SOL_IP && matches!(name, IP_TPROXY | IP_RECVORIGADDRS | SO_ORIGINAL_DST) {
        let answer = || match name {
            SO_ORIGINAL_DST => original::get(fd, value as usize, len as usize),
            _ => option::get(fd, name, value as usize, len as usize),
        };
        match inside::run(Outcome::Pass, answer) {
            Outcome::Done => return 0,
            Outcome::Fail(errno) => return fail(errno),
            Outcome::Pass => {}
        }
    }
    // SAFETY: the caller's own call.
    unsafe { real::getsockopt(fd, level, name, value, len) }
}

/// Adds the original addresses where they are wanted.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    if wishes::any() {
        // SAFETY: the caller's own call.
        return unsafe { datagram::receive(fd, message, flags) };
    }
    // SAFETY: the caller's own call.
    unsafe { real::recvmsg(fd, message, flags) }
}

/// Adds the original addresses where they are wanted.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn recvmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    if wishes::any() {
        // SAFETY: the caller's own call.
        return unsafe { datagram::receive_many(fd, messages, count, flags, timeout) };
    }
    // SAFETY: the caller's own call.
    unsafe { real::recvmmsg(fd, messages, count, flags, timeout) }
}

/// Spares our channel: to the program those numbers are not open.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn close(fd: c_int) -> c_int {
    if must_be_spared(fd) {
        return fail(libc::EBADF);
    }
    // SAFETY: the caller's own call.
    unsafe { real::close(fd) }
}

/// The other name of `close`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn __close(fd: c_int) -> c_int {
    // SAFETY: the same call.
    unsafe { close(fd) }
}

/// Spares our channel: EBUSY, which is what Linux says of a number that is just being opened.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn dup2(from: c_int, to: c_int) -> c_int {
    if must_be_spared(to) {
        return fail(libc::EBUSY);
    }
    // SAFETY: the caller's own call.
    unsafe { real::dup2(from, to) }
}

/// The other name of `dup2`.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn __dup2(from: c_int, to: c_int) -> c_int {
    // SAFETY: the same call.
    unsafe { dup2(from, to) }
}

/// As [`dup2`].
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn dup3(from: c_int, to: c_int, flags: c_int) -> c_int {
    if must_be_spared(to) {
        return fail(libc::EBUSY);
    }
    // SAFETY: the caller's own call.
    unsafe { real::dup3(from, to, flags) }
}

/// Closes around our channel. With other flags nothing is closed, or nothing is done.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    let is_whole = descriptors::spare(first, last).eq([(first, last)]);
    if is_whole || first > last || flags & !UNSHARE != 0 || inside::is_inside() {
        // SAFETY: the caller's own call.
        return unsafe { real::close_range(first, last, flags) };
    }
    for (first, last) in descriptors::spare(first, last) {
        // SAFETY: a part of the caller's own call.
        let done = unsafe { real::close_range(first, last, flags) };
        if done != 0 {
            return done;
        }
    }
    0
}

/// Closes around our channel.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn closefrom(first: c_int) {
    let from = u32::try_from(first).unwrap_or(0);
    for (first, last) in descriptors::spare(from, u32::MAX) {
        if last == u32::MAX {
            let first = c_int::try_from(first).unwrap_or(c_int::MAX);
            // SAFETY: the last part of the caller's own call, or all of it.
            return unsafe { real::closefrom(first) };
        }
        // SAFETY: a part of the caller's own call.
        if unsafe { real::close_range(first, last, 0) } != 0 {
            for fd in first..=last {
                // SAFETY: the same, for kernels that know no ranges.
                let _ = unsafe { real::close(fd.cast_signed()) };
            }
        }
    }
}

/// Holds the daemon's folder before it is out of sight. Opens the channel, too, if the program uses
/// it: one that was forked since has none yet.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C-unwind" fn chroot(path: *const c_char) -> c_int {
    inside::run((), channel::prepare);
    // SAFETY: the caller's own call.
    unsafe { real::chroot(path) }
}

/// Whether it is one of our channel's, and the program's call.
#[inline]
fn must_be_spared(fd: c_int) -> bool {
    descriptors::is_ours(fd) && !inside::is_inside()
}
