//! How failures are told in C.

use std::cell::RefCell;
use std::ffi::{CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};

use errno::{Errno, set_errno};
use xtproxy_client::Error;

/// What a function fails with: an errno and a line.
#[derive(Debug)]
pub(crate) struct Failure {
    pub errno: c_int,
    pub line: String,
}

impl Failure {
    pub fn new(errno: c_int, line: impl Into<String>) -> Self {
        let line = line.into();
        Self { errno, line }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(error.errno(), error.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        Self::new(errno, error.to_string())
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Runs what a function does; tells a failure by errno and returns `failed` for it.
pub(crate) fn told<T>(failed: T, run: impl FnOnce() -> Result<T, Failure>) -> T {
    let outcome = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        let line = "libxtproxy failed by a mistake of its own: please report it";
        Err(Failure::new(libc::ENOTRECOVERABLE, line))
    });
    outcome.unwrap_or_else(|failure| {
        remember(failure.line);
        set_errno(Errno(failure.errno));
        failed
    })
}

/// As [`told`], of what succeeds with 0.
pub(crate) fn done(run: impl FnOnce() -> Result<(), Failure>) -> c_int {
    told(-1, || run().map(|()| 0))
}

fn remember(mut line: String) {
    line.retain(|c| c != '\0');
    // It has no zero; and a thread that is ending has nobody to read it.
    let line = CString::new(line).unwrap_or_default();
    let _ = LAST.try_with(|last| last.replace(line));
}

/// The last failure of this thread.
#[unsafe(no_mangle)]
pub extern "C" fn xtproxy_error() -> *const c_char {
    let last = LAST.try_with(|last| last.borrow().as_ptr());
    last.unwrap_or(c"".as_ptr())
}
