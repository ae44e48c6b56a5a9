//! What happens once, when the library is loaded, or earlier if another library's initialiser
//! needs it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{process, report};

/// The daemon's folder in a program that runs with more rights than its caller.
const SECURE_DIR: &str = "/run/xtproxy";

#[cfg(not(test))]
#[used]
#[unsafe(link_section = ".init_array")]
static AT_LOAD: extern "C" fn() = at_load;

#[cfg(not(test))]
extern "C" fn at_load() {
    let _ = std::panic::catch_unwind(|| {
        crate::real::find_all();
        once();
    });
}

/// Does it, if it was not done. Says the daemon's folder as it was named at that time: programs
/// clean their environment, or write over it.
pub fn once() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        // The hook is that of the standard library in here, not one of the program's.
        std::panic::set_hook(Box::new(|_| ()));
        process::start();
        let is_secure = is_secure();
        report::start(is_secure);
        if is_secure {
            PathBuf::from(SECURE_DIR)
        } else {
            xtproxy_client::runtime_dir()
        }
    })
}

/// Whether the program has more rights than its caller, so that the environment is not its own.
fn is_secure() -> bool {
    // SAFETY: it reads a value that the kernel left for the process.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}
