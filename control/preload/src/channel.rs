//! The channel to the daemon: opened at the first call that needs it, one for each process.
//!
//! Invariant: no lock. A process can fork while another of its threads is anywhere in here.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

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
    registrar.ready().map_err(|error| {
        report::line(|| error.to_string());
        Errno::NOPROTOOPT
    })?;
    let answer = registrar.call(request);
    // It may have opened a new channel: the first one, after fork, or after a restart.
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

/// What is needed while the daemon's folder can be reached: it is held. In a program that has used
/// the channel it is opened, too, with the rights that the process has now.
pub fn prepare() {
    if IS_USED.load(Ordering::Relaxed) {
        is_answered();
    } else if let Some(registrar) = registrar() {
        descriptors::publish(&registrar.descriptors());
    }
}

/// It holds the daemon's folder from the first use on.
fn registrar() -> Option<&'static Registrar> {
    let dir = start::once();
    if process::is_borrowed() {
        return None;
    }
    let found = REGISTRAR.load(Ordering::Acquire);
    // SAFETY: null, or what `keep` put there, which is never freed.
    let found = unsafe { found.as_ref() };
    Some(found.unwrap_or_else(|| keep(Registrar::lazy(dir))))
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
