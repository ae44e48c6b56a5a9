//! The channel to the daemon: opened at the first call that needs it, one for each process.
//!
//! Invariant: no lock. A process can fork while another of its threads is anywhere in here.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use shm::{Access, Operation, Reply, Request};
use xtproxy_client::Registrar;

use crate::{descriptors, process, report, start};

/// What asks the daemon; never freed.
static REGISTRAR: AtomicPtr<Registrar> = AtomicPtr::new(ptr::null_mut());

/// Whether the program, or the one that forked it, has used the interface.
static IS_USED: AtomicBool = AtomicBool::new(false);

/// The highest errno that there can be.
const ERRNO_MAX: i32 = 4095;

/// Asks the daemon. `ENOPROTOOPT` if there is none, as from a kernel without TProxy.
pub fn call(request: &Request) -> Result<Reply, Errno> {
    IS_USED.store(true, Ordering::Relaxed);
    let registrar = registrar().ok_or(Errno::NOPROTOOPT)?;
    let answer = registrar.call(request);
    // It may have opened a new channel: after fork, or after a restart of the daemon.
    descriptors::publish(&registrar.descriptors());
    report::line(|| match &answer {
        Ok(reply) => format!("{request:?} -> {reply:?}"),
        Err(errno) => format!("{request:?} -> errno {errno}"),
    });
    answer.map_err(|errno| match errno {
        1..=ERRNO_MAX => Errno::from_raw_os_error(errno),
        _ => Errno::IO,
    })
}

/// Whether a daemon answers.
pub fn is_answered() -> bool {
    let question = Request::new(Operation::Version, Access::Get, -1);
    // Any other errno comes from a daemon: here, that there is no such socket.
    call(&question) != Err(Errno::NOPROTOOPT)
}

/// Opens it while the daemon's socket can be reached, in a program that has used it.
pub fn prepare() {
    if IS_USED.load(Ordering::Relaxed) {
        is_answered();
    }
}

fn registrar() -> Option<&'static Registrar> {
    let dir = start::once();
    if process::is_borrowed() {
        return None;
    }
    let found = REGISTRAR.load(Ordering::Acquire);
    // SAFETY: null, or what `keep` put there, which is never freed.
    if let Some(registrar) = unsafe { found.as_ref() } {
        return Some(registrar);
    }
    match above_standard(|| Registrar::connect_to(dir)) {
        Ok(registrar) => Some(keep(registrar)),
        Err(error) => {
            report::line(|| error.to_string());
            None
        }
    }
}

/// Keeps it for good, unless another thread was first.
fn keep(registrar: Registrar) -> &'static Registrar {
    let (ours, order) = (Box::into_raw(Box::new(registrar)), Ordering::AcqRel);
    match REGISTRAR.compare_exchange(ptr::null_mut(), ours, order, Ordering::Acquire) {
        // SAFETY: made above and given away for good.
        Ok(_) => unsafe { &*ours },
        Err(first) => {
            // SAFETY: made above, and nobody else has seen it.
            drop(unsafe { Box::from_raw(ours) });
            // SAFETY: not null, and never freed.
            unsafe { &*first }
        }
    }
}

/// Does something with the numbers of standard input, output and error taken: daemons close
/// those, and open them anew expecting the same numbers.
fn above_standard<T>(work: impl FnOnce() -> T) -> T {
    let mut held = [const { None }; 3];
    for place in &mut held {
        match eventfd(0, EventfdFlags::CLOEXEC) {
            Ok(fd) if std::os::fd::AsRawFd::as_raw_fd(&fd) <= libc::STDERR_FILENO => {
                *place = Some(fd)
            }
            _ => break,
        }
    }
    let done = work();
    drop(held);
    done
}
