//! One function for each operation.

use std::ffi::{c_int, c_uint};

use libc::sockaddr_in;
use xtproxy_client::Flags;

use crate::address::{null, put, read, require, write};
use crate::failure::{Failure, done};
use crate::handle::{Handle, Lent, lend, registrar};

/// What every operation needs.
///
/// # Safety
/// The handle is one or NULL, and nobody closes it or the descriptor in the lifetime.
unsafe fn subject<'a>(
    handle: *const Handle,
    fd: c_int,
) -> Result<(&'a xtproxy_client::Registrar, Lent<'a>), Failure> {
    // SAFETY: this function's contract.
    let registrar = unsafe { registrar(handle) }?;
    // SAFETY: this function's contract.
    let socket = unsafe { lend(fd) }?;
    Ok((registrar, socket))
}

/// Tells the version.
///
/// # Safety
/// The handle is one or NULL, and open, as the descriptor, for the time of the call; `version`
/// is NULL or has room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_version(
    handle: *const Handle,
    fd: c_int,
    version: *mut c_uint,
) -> c_int {
    done(|| {
        // SAFETY: this function's contract.
        let (registrar, socket) = unsafe { subject(handle, fd) }?;
        let served = registrar.version(&socket)?;
        // SAFETY: this function's contract.
        unsafe { put(version, served, "version") }
    })
}

/// Checks a version.
///
/// # Safety
/// The handle is one or NULL, and open, as the descriptor, for the time of the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_check_version(
    handle: *const Handle,
    fd: c_int,
    version: c_uint,
) -> c_int {
    done(|| {
        // SAFETY: this function's contract.
        let (registrar, socket) = unsafe { subject(handle, fd) }?;
        Ok(registrar.check_version(&socket, version)?)
    })
}

/// Gives a foreign address.
///
/// # Safety
/// The handle is one or NULL, and open, as the descriptor, for the time of the call; `foreign`
/// is NULL or an address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_assign(
    handle: *const Handle,
    fd: c_int,
    foreign: *const sockaddr_in,
) -> c_int {
    done(|| {
        // SAFETY: this function's contract.
        let (registrar, socket) = unsafe { subject(handle, fd) }?;
        // SAFETY: this function's contract.
        let foreign = unsafe { require(foreign, "foreign") }?;
        Ok(registrar.assign(&socket, foreign)?)
    })
}

/// Gives a foreign address, a peer and flags.
///
/// # Safety
/// As [`xtproxy_assign`]; `peer` is NULL or an address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_assign_flags(
    handle: *const Handle,
    fd: c_int,
    foreign: *const sockaddr_in,
    peer: *const sockaddr_in,
    flags: c_uint,
) -> c_int {
    done(|| {
        // SAFETY: this function's contract.
        let (registrar, socket) = unsafe { subject(handle, fd) }?;
        // SAFETY: this function's contract.
        let foreign = unsafe { require(foreign, "foreign") }?;
        // SAFETY: this function's contract.
        let peer = unsafe { read(peer) }?;
        Ok(registrar.assign_with(&socket, foreign, peer, Flags::from_bits_retain(flags))?)
    })
}

/// Takes the foreign address away.
///
/// # Safety
/// The handle is one or NULL, and open, as the descriptor, for the time of the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_unassign(handle: *const Handle, fd: c_int) -> c_int {
    done(|| {
        // SAFETY: this function's contract.
        let (registrar, socket) = unsafe { subject(handle, fd) }?;
        Ok(registrar.unassign(&socket)?)
    })
}

/// Tells the foreign address.
///
/// # Safety
/// The handle is one or NULL, and open, as the descriptor, for the time of the call; `foreign`
/// is NULL or has room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_query(
    handle: *const Handle,
    fd: c_int,
    foreign: *mut sockaddr_in,
) -> c_int {
    done(|| {
        // SAFETY: this function's contract.
        let (registrar, socket) = unsafe { subject(handle, fd) }?;
        let found = registrar.query(&socket)?;
        if foreign.is_null() {
            return Err(null("foreign"));
        }
        // SAFETY: this function's contract.
        unsafe { write(foreign, found) };
        Ok(())
    })
}

/// Sets the flags.
///
/// # Safety
/// The handle is one or NULL, and open, as the descriptor, for the time of the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_set_flags(
    handle: *const Handle,
    fd: c_int,
    flags: c_uint,
) -> c_int {
    done(|| {
        // SAFETY: this function's contract.
        let (registrar, socket) = unsafe { subject(handle, fd) }?;
        Ok(registrar.set_flags(&socket, Flags::from_bits_retain(flags))?)
    })
}

/// Tells the flags.
///
/// # Safety
/// The handle is one or NULL, and open, as the descriptor, for the time of the call; `flags` is
/// NULL or has room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_get_flags(
    handle: *const Handle,
    fd: c_int,
    flags: *mut c_uint,
) -> c_int {
    done(|| {
        // SAFETY: this function's contract.
        let (registrar, socket) = unsafe { subject(handle, fd) }?;
        let found = registrar.flags(&socket)?;
        // SAFETY: this function's contract.
        unsafe { put(flags, found.bits(), "flags") }
    })
}

/// Chooses a foreign port.
///
/// # Safety
/// The handle is one or NULL, and open, as the descriptor, for the time of the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_alloc(handle: *const Handle, fd: c_int) -> c_int {
    done(|| {
        // SAFETY: this function's contract.
        let (registrar, socket) = unsafe { subject(handle, fd) }?;
        Ok(registrar.alloc(&socket)?)
    })
}

/// Records the peer.
///
/// # Safety
/// The handle is one or NULL, and open, as the descriptor, for the time of the call; `peer` is
/// NULL or an address.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_connect_peer(
    handle: *const Handle,
    fd: c_int,
    peer: *const sockaddr_in,
) -> c_int {
    done(|| {
        // SAFETY: this function's contract.
        let (registrar, socket) = unsafe { subject(handle, fd) }?;
        // SAFETY: this function's contract.
        let peer = unsafe { require(peer, "peer") }?;
        Ok(registrar.set_peer(&socket, peer)?)
    })
}
