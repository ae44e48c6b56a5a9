//! A line on standard error for each call that is answered here, if `XTPROXY_PRELOAD_DEBUG` is set.

use std::sync::atomic::{AtomicBool, Ordering};

/// The variable that asks for it.
const VARIABLE: &str = "XTPROXY_PRELOAD_DEBUG";

static IS_WANTED: AtomicBool = AtomicBool::new(false);

/// Looks whether it is asked for.
pub fn start(is_secure: bool) {
    let is_wanted = !is_secure && std::env::var_os(VARIABLE).is_some_and(|value| !value.is_empty());
    IS_WANTED.store(is_wanted, Ordering::Relaxed);
}

/// Writes a line, if asked for.
pub fn line(what: impl FnOnce() -> String) {
    if !IS_WANTED.load(Ordering::Relaxed) {
        return;
    }
    let line = format!("xtproxy-preload[{}]: {}\n", std::process::id(), what());
    // Without the standard library's lock, which a fork could leave locked. Who closed standard error does not want to know.
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}
