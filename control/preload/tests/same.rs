//! Everything else is as without the shim.

mod daemon;

use daemon::{Daemon, command, content, finish};
use shm::Reply;

#[test]
fn other_calls_answer_the_same() {
    let bare = content(&finish(command("same", &[], None)));
    assert!(bare.lines().count() > 70_000, "the program compares little");
    let empty = tempfile::tempdir().unwrap();
    let without_daemon = content(&finish(command("same", &[], Some(empty.path()))));
    compare(&bare, &without_daemon);
    let daemon = Daemon::start(|_| Reply::refused(libc::ENOENT));
    compare(&bare, &daemon.check("same", &[]));
}

fn compare(bare: &str, shimmed: &str) {
    for (bare, shimmed) in bare.lines().zip(shimmed.lines()) {
        assert_eq!(bare, shimmed);
    }
    assert_eq!(bare.len(), shimmed.len());
}
