//! The program's memory, read and written through the kernel: an address that is none is an
//! error, not a crash.

use std::ffi::c_void;
use std::ptr;

use rustix::io::Errno;

/// Bytes and where in the program's memory they are to go.
pub type Part<'a> = (usize, &'a [u8]);

/// Parts that one call writes at most.
pub const PARTS: usize = 3;

/// Reads as many bytes as `into` is long.
pub fn read(from: usize, into: &mut [u8]) -> Result<(), Errno> {
    if into.is_empty() {
        return Ok(());
    }
    let local = span(into.as_mut_ptr() as usize, into.len());
    let remote = span(from, into.len());
    // SAFETY: the kernel writes into `into` only, as long as it is, and checks the other address.
    let done =
        unsafe { libc::process_vm_readv(own(), &raw const local, 1, &raw const remote, 1, 0) };
    match usize::try_from(done) {
        Ok(done) if done == into.len() => return Ok(()),
        Ok(_) => return Err(Errno::FAULT),
        Err(_) if is_bad_address(from) => return Err(Errno::FAULT),
        Err(_) => {}
    }
    // SAFETY: the kernel does not let us ask (seccomp), so we have to believe the program that
    // its pointer is good, as every function of the C library does; `into` is our own.
    unsafe { ptr::copy_nonoverlapping(from as *const u8, into.as_mut_ptr(), into.len()) };
    Ok(())
}

/// Writes all of the parts.
pub fn write(parts: &[Part<'_>]) -> Result<(), Errno> {
    let none = span(0, 0);
    let (mut local, mut remote) = ([none; PARTS], [none; PARTS]);
    let mut total = 0;
    let mut count = 0;
    for (idx, (to, bytes)) in parts
        .iter()
        .filter(|part| !part.1.is_empty())
        .take(PARTS)
        .enumerate()
    {
        local[idx] = span(bytes.as_ptr() as usize, bytes.len());
        remote[idx] = span(*to, bytes.len());
        total += bytes.len();
        count = idx + 1;
    }
    if total == 0 {
        return Ok(());
    }
    let (from, into, number) = (local.as_ptr(), remote.as_ptr(), count as libc::c_ulong);
    // SAFETY: the kernel reads our parts, each as long as said, and checks the other addresses.
    let done = unsafe { libc::process_vm_writev(own(), from, number, into, number, 0) };
    match usize::try_from(done) {
        Ok(done) if done == total => return Ok(()),
        Ok(_) => return Err(Errno::FAULT),
        Err(_) if parts.iter().any(|part| is_bad_address(part.0)) => return Err(Errno::FAULT),
        Err(_) => {}
    }
    for (to, bytes) in parts {
        // SAFETY: see `read`: nothing is left but to believe the program.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), *to as *mut u8, bytes.len()) };
    }
    Ok(())
}

/// After a call that failed: whether the address was why, as far as can be told.
fn is_bad_address(at: usize) -> bool {
    let errno = std::io::Error::last_os_error().raw_os_error();
    at == 0 || errno == Some(libc::EFAULT)
}

fn span(base: usize, len: usize) -> libc::iovec {
    libc::iovec {
        iov_base: base as *mut c_void,
        iov_len: len,
    }
}

fn own() -> libc::pid_t {
    rustix::process::getpid().as_raw_nonzero().get()
}
