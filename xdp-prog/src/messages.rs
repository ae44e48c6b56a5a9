//! What libbpf prints goes to tracing; the kernel's own words are kept for the
//! error that follows them.

use std::cell::RefCell;
use std::sync::Once;

use libbpf_rs::PrintLevel;

const KERNEL_MESSAGE: &str = "libbpf: Kernel error message: ";

thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Sends libbpf's prints to tracing from now on.
pub(crate) fn divert() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        libbpf_rs::set_print(Some((PrintLevel::Debug, receive)));
    });
}

fn receive(level: PrintLevel, line: String) {
    let line = line.trim_end();
    if let Some(words) = line.strip_prefix(KERNEL_MESSAGE) {
        LAST.set(words.trim_end_matches('.').to_owned());
    }
    // A failure reaches the user as an error; the lines around it are detail.
    match level {
        PrintLevel::Warn => tracing::debug!("{line}"),
        PrintLevel::Info | PrintLevel::Debug => tracing::trace!("{line}"),
    }
}

/// What the kernel said last on this thread, once.
pub(crate) fn take_kernel_message() -> String {
    LAST.take()
}
