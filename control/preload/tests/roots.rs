//! Programs behind a new root, and while the daemon is restarted.

mod daemon;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use daemon::{Daemon, command, content, finish};
use shm::{Operation, Reply, Request};
use tempfile::TempDir;

fn script(request: &Request) -> Reply {
    assert_eq!(request.operation, Operation::Version);
    Reply {
        version: 0x0200_0006,
        ..Reply::default()
    }
}

fn live(life: &str) -> Daemon {
    let daemon = Daemon::start(script);
    let root = tempfile::tempdir().unwrap();
    daemon.check("roots", &[life, root.path().to_str().unwrap()]);
    daemon
}

#[test]
fn a_new_root_and_no_rights() {
    assert_eq!(live("jailed").channels(), 1);
}

#[test]
fn a_child_behind_a_new_root() {
    assert_eq!(live("jailed_child").channels(), 2);
}

#[test]
fn a_child_of_a_program_behind_a_new_root() {
    let daemon = Daemon::start(script);
    let root = new_root();
    daemon.check("roots", &["demoted", root.path().to_str().unwrap()]);
    assert_eq!(daemon.channels(), 3);
}

#[test]
fn a_child_in_a_container_that_forbids_much() {
    assert_eq!(live("confined").channels(), 2);
}

#[test]
fn the_first_use_behind_a_new_root() {
    assert_eq!(live("jailed_first").channels(), 1);
}

/// A root with a folder in it, for everybody.
fn new_root() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    std::fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir(root.path().join("inner")).unwrap();
    root
}

/// A program while the daemon is restarted: it looks for the file `done`.
fn outlive(life: &str) {
    let (root, first) = (new_root(), Daemon::start(script));
    let mut program = command("roots", &[life], Some(first.dir()));
    program.current_dir(root.path());
    let running = thread::spawn(|| finish(program));
    let await_question = |daemon: &Daemon| {
        let start = Instant::now();
        while daemon.asked().is_empty() && !running.is_finished() {
            assert!(start.elapsed() < Duration::from_secs(10), "nobody asks");
            thread::sleep(Duration::from_millis(5));
        }
    };
    await_question(&first);
    thread::sleep(Duration::from_millis(100));
    let dir = first.stop();
    thread::sleep(Duration::from_millis(300));
    let second = Daemon::start_in(dir, script);
    await_question(&second);
    std::fs::write(root.path().join("done"), "").unwrap();
    content(&running.join().unwrap());
    assert_eq!(second.channels(), 1);
}

#[test]
fn a_new_daemon_in_the_old_ones_place() {
    outlive("outliving");
}

#[test]
fn a_new_daemon_behind_the_old_root() {
    outlive("outliving_jailed");
}
