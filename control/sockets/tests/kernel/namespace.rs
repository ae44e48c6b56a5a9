//! A network namespace that ends with the thread that is in it: nothing to clean up, also after a
//! panic.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

/// Runs `body` in a new thread, in a new network namespace with `lo` up.
pub fn inside<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (root?)");
            let up = Command::new("ip")
                .args(["link", "set", "lo", "up"])
                .status();
            assert!(up.expect("ip").success());
            body()
        });
        inside
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
