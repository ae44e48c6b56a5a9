//! The way into our own code and out of it.
//!
//! Invariants: what our own code calls of the C library is not answered by us again; no panic,
//! cancellation or changed errno gets out.

use std::cell::Cell;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use rustix::io::Errno;

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is not ours: the C library shall answer.
    Pass,
    /// Done: 0.
    Done,
    /// Refused with this errno.
    Fail(i32),
}

impl From<Errno> for Outcome {
    fn from(errno: Errno) -> Self {
        Self::Fail(errno.raw_os_error())
    }
}

thread_local! {
    /// Whether this thread is in our code. Has no destructor, so it is there from the thread's
    /// first call to its last.
    static IS_INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Whether the call comes from our own code.
pub fn is_inside() -> bool {
    IS_INSIDE.get()
}

/// Runs our own code; `otherwise` if the call came from there, or a panic.
pub fn run<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    if is_inside() {
        return otherwise;
    }
    let _stay = Stay::begin();
    // What a panic leaves half done is a cache entry at most.
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(otherwise)
}

/// Sets errno and says -1.
pub fn fail(errno: i32) -> c_int {
    set_errno(errno);
    -1
}

struct Stay {
    errno: i32,
    cancel: c_int,
}

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, before: *mut c_int) -> c_int;
}

/// `PTHREAD_CANCEL_DISABLE`.
const DISABLE: c_int = 1;

impl Stay {
    fn begin() -> Self {
        IS_INSIDE.set(true);
        let errno = errno();
        let mut cancel = 0;
        // SAFETY: the place for the state before is there. Cancellation would unwind our frames.
        let _ = unsafe { pthread_setcancelstate(DISABLE, &raw mut cancel) };
        Self { errno, cancel }
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        // SAFETY: the state is one that the C library gave; nobody wants the one before.
        let _ = unsafe { pthread_setcancelstate(self.cancel, ptr::null_mut()) };
        set_errno(self.errno);
        IS_INSIDE.set(false);
    }
}

fn place() -> *mut c_int {
    // SAFETY: it has no arguments; the thread's errno is there as long as the thread.
    unsafe { libc::__errno_location() }
}

fn errno() -> i32 {
    // SAFETY: see `place`.
    unsafe { place().read() }
}

fn set_errno(errno: i32) {
    // SAFETY: see `place`.
    unsafe { place().write(errno) };
}
