//! The handle, and what it is about: a socket.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use rustix::io::fcntl_getfd;
use xtproxy_client::{Error, Registrar, runtime_dir};

use crate::failure::{Failure, told};
use crate::waiting::Waiting;

/// What C has a pointer to.
pub(crate) struct Handle {
    pub registrar: Registrar,
    /// Of `xtproxy_accept_foreign`.
    pub waiting: Waiting,
}

/// The registrar of a handle.
///
/// # Safety
/// As [`get`].
pub(crate) unsafe fn registrar<'a>(handle: *const Handle) -> Result<&'a Registrar, Failure> {
    // SAFETY: this function's contract.
    Ok(unsafe { &get(handle)?.registrar })
}

/// A handle.
///
/// # Safety
/// The pointer is NULL or comes from `xtproxy_open`, and nobody closes it in the lifetime.
pub(crate) unsafe fn get<'a>(handle: *const Handle) -> Result<&'a Handle, Failure> {
    // SAFETY: not NULL it is a handle that lives, by this function's contract; it is only ever
    // shared.
    let handle = unsafe { handle.as_ref() };
    handle.ok_or_else(|| Failure::new(libc::EINVAL, "the handle is NULL"))
}

/// A socket of the caller's, for the time of a call.
pub(crate) struct Lent<'a>(BorrowedFd<'a>);

impl AsFd for Lent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0
    }
}

/// Borrows a descriptor, if it is open.
///
/// # Safety
/// The caller does not close it in the lifetime.
pub(crate) unsafe fn lend<'a>(fd: RawFd) -> Result<Lent<'a>, Failure> {
    let bad = || Failure::new(libc::EBADF, format!("descriptor {fd} is not open"));
    if fd < 0 {
        return Err(bad());
    }
    // SAFETY: not -1; the look that follows finds out whether it is open, and this function's
    // contract is that it stays so.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl_getfd(borrowed).map_err(|_| bad())?;
    Ok(Lent(borrowed))
}

/// Opens a handle.
///
/// # Safety
/// `runtime_dir` is NULL or a string with a zero at its end.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_open(dir: *const c_char) -> *mut Handle {
    told(ptr::null_mut(), || {
        let opened = if dir.is_null() {
            Registrar::connect_to(runtime_dir())
        } else {
            // SAFETY: not NULL, so it is a string by this function's contract.
            let dir = unsafe { CStr::from_ptr(dir) };
            Registrar::connect_to(Path::new(OsStr::from_bytes(dir.to_bytes())))
        };
        let registrar = opened.map_err(|error| match &error {
            // Here it matters why nobody answers.
            Error::NoDaemon { source, .. } => {
                let errno = source.raw_os_error().unwrap_or_else(|| error.errno());
                Failure::new(errno, error.to_string())
            }
            _ => error.into(),
        })?;
        let waiting = Waiting::default();
        Ok(Box::into_raw(Box::new(Handle { registrar, waiting })))
    })
}

/// Closes a handle.
///
/// # Safety
/// The handle is NULL or comes from `xtproxy_open`, and is used no more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_close(handle: *mut Handle) {
    if handle.is_null() {
        return;
    }
    told((), || {
        // SAFETY: it was made by `Box::into_raw` and is given back once, by this function's
        // contract.
        drop(unsafe { Box::from_raw(handle) });
        Ok(())
    });
}

/// The descriptors that a handle needs.
///
/// # Safety
/// The handle is one or NULL; `fds` is NULL or has room for `most`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn xtproxy_descriptors(
    handle: *const Handle,
    fds: *mut c_int,
    most: c_int,
) -> c_int {
    told(-1, || {
        // SAFETY: this function's contract.
        let registrar = unsafe { registrar(handle) }?;
        let found = registrar.descriptors();
        let room = usize::try_from(most).unwrap_or(0);
        if !fds.is_null() {
            let count = found.len().min(room);
            // SAFETY: `count` is at most `most`, for which there is room by this function's
            // contract; what was found lies elsewhere.
            unsafe { ptr::copy_nonoverlapping(found.as_ptr(), fds, count) };
        }
        Ok(found.len() as c_int)
    })
}
