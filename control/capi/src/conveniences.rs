//! What goes beyond the operations.

use std::ffi::{c_int, c_uint};
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use libc::sockaddr_in;
use rustix::io::{Errno, ioctl_fionbio};
use rustix::net::{SocketFlags, accept_with};
use xtproxy_client::{Error, ForeignListener, foreign_connect};

use crate::address::{null, read, require, write};
use crate::failure::{Failure, done, told};
use crate::handle::{Handle, get, lend, registrar};

/// Longer than any kernel tries to connect.
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

/// Tells who the peer is and where it wanted to go.
///
/// # Safety
/// The handle is one or NULL, and open, as the descriptor, for the time of the call; `src` and
/// `dst` are NULL or have room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_original_dst(
    handle: *const Handle,
    fd: c_int,
    src: *mut sockaddr_in,
    dst: *mut sockaddr_in,
) -> c_int {
    let (shown, fresh_ms) = (ptr::null(), ptr::null_mut());
    // SAFETY: this function's contract; NULL is nothing to read or write.
    unsafe { xtproxy_original_dst_from(handle, fd, shown, src, dst, fresh_ms) }
}

/// Tells the same of a datagram.
///
/// # Safety
/// As [`xtproxy_original_dst`]; `shown` is NULL or an address, `fresh_ms` NULL or has room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_original_dst_from(
    handle: *const Handle,
    fd: c_int,
    shown: *const sockaddr_in,
    src: *mut sockaddr_in,
    dst: *mut sockaddr_in,
    fresh_ms: *mut c_uint,
) -> c_int {
    done(|| {
        // SAFETY: this function's contract.
        let registrar = unsafe { registrar(handle) }?;
        // SAFETY: this function's contract.
        let socket = unsafe { lend(fd) }?;
        // SAFETY: this function's contract.
        let shown = unsafe { read(shown) }?;
        let original = registrar.original_destination(&socket, shown)?;
        // SAFETY: this function's contract.
        unsafe { write(src, original.source) };
        // SAFETY: this function's contract.
        unsafe { write(dst, original.destination) };
        if !fresh_ms.is_null() {
            let ms = c_uint::try_from(original.fresh_for.as_millis()).unwrap_or(c_uint::MAX);
            // SAFETY: not NULL, so there is room by this function's contract.
            unsafe { fresh_ms.write_unaligned(ms) };
        }
        Ok(())
    })
}

/// Listens on a foreign address.
///
/// # Safety
/// The handle is one or NULL, and open for the time of the call; the others are NULL or
/// addresses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_listen_foreign(
    handle: *const Handle,
    foreign: *const sockaddr_in,
    local: *const sockaddr_in,
    peer: *const sockaddr_in,
) -> c_int {
    told(-1, || {
        // SAFETY: this function's contract.
        let registrar = unsafe { registrar(handle) }?;
        // SAFETY: this function's contract.
        let foreign = unsafe { require(foreign, "foreign") }?;
        // SAFETY: this function's contract.
        let local = unsafe { read(local) }?;
        // SAFETY: this function's contract.
        let peer = unsafe { read(peer) }?;
        let listener = match (local, peer) {
            (local, Some(peer)) => ForeignListener::with_peer(registrar, foreign, local, peer)?,
            (Some(local), None) => ForeignListener::bind_at(registrar, foreign, local)?,
            (None, None) => return Err(null("local")),
        };
        let socket = OwnedFd::from(listener);
        ioctl_fionbio(&socket, false).map_err(std::io::Error::from)?;
        Ok(socket.into_raw_fd())
    })
}

/// Accepts a connection to a foreign address.
///
/// # Safety
/// The handle is one or NULL, and open, as the descriptor, for the time of the call; `client` is
/// NULL or has room.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_accept_foreign(
    handle: *const Handle,
    listener: c_int,
    client: *mut sockaddr_in,
) -> c_int {
    told(-1, || {
        // SAFETY: this function's contract.
        let handle = unsafe { get(handle) }?;
        // SAFETY: this function's contract.
        let listener = unsafe { lend(listener) }?;
        let (stream, source) = accept(handle, &listener)?;
        // SAFETY: this function's contract.
        unsafe { write(client, source) };
        Ok(stream.into_raw_fd())
    })
}

/// Connects from a foreign address.
///
/// # Safety
/// As [`xtproxy_listen_foreign`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_connect_foreign(
    handle: *const Handle,
    foreign: *const sockaddr_in,
    to: *const sockaddr_in,
    local: *const sockaddr_in,
    timeout_ms: c_int,
) -> c_int {
    told(-1, || {
        // SAFETY: this function's contract.
        let registrar = unsafe { registrar(handle) }?;
        // SAFETY: this function's contract.
        let foreign = unsafe { require(foreign, "foreign") }?;
        // SAFETY: this function's contract.
        let to = unsafe { require(to, "to") }?;
        // SAFETY: this function's contract.
        let local = unsafe { read(local) }?.map(|local| *local.ip());
        let timeout = u64::try_from(timeout_ms).map_or(FOR_EVER, Duration::from_millis);
        let stream = foreign_connect(registrar, foreign, to, local, timeout)?;
        Ok(stream.into_raw_fd())
    })
}

/// Accepts until a connection is one to the listener's foreign address. One about which the
/// daemon does not answer waits for the next call.
fn accept(handle: &Handle, listener: &impl AsFd) -> Result<(OwnedFd, SocketAddrV4), Failure> {
    let Handle { registrar, waiting } = handle;
    let foreign = registrar.query(listener)?;
    loop {
        let stream = match waiting.take(listener) {
            Some(stream) => stream,
            None => next(listener, foreign)?,
        };
        match registrar.original_destination(&stream, None) {
            Ok(original) if original.destination == foreign => {
                return Ok((stream, original.source));
            }
            Ok(_) => {}
            Err(Error::Refused { errno, .. }) if errno == libc::ENOENT => {}
            // About this connection: it would be the same the next time.
            Err(error @ Error::Refused { .. }) => return Err(error.into()),
            Err(error) => {
                waiting
                    .keep(listener, stream)
                    .map_err(std::io::Error::from)?;
                return Err(error.into());
            }
        }
    }
}

/// The next connection, whatever it was made to.
fn next(listener: &impl AsFd, foreign: SocketAddrV4) -> Result<OwnedFd, Failure> {
    loop {
        match accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(stream) => return Ok(stream),
            // A client that has left already. A signal is the caller's to know of.
            Err(Errno::CONNABORTED | Errno::PROTO) => {}
            Err(errno) => {
                let line = format!("cannot accept a connection to {foreign}: {errno}");
                return Err(Failure::new(errno.raw_os_error(), line));
            }
        }
    }
}
