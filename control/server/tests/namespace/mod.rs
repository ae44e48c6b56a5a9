//! A network namespace that ends with the thread that is in it: nothing to clean up, also after a
//! panic.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs `body` in a new thread, in a new network namespace where `lo` is up and has 10.1.0.1.
/// Threads and processes that it starts are in there too.
pub fn inside<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (root?)");
            for words in ["link set lo up", "address add 10.1.0.1/32 dev lo"] {
                let ip = Command::new("ip").args(words.split(' ')).status();
                assert!(ip.expect("ip").success(), "{words}");
            }
            body()
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
