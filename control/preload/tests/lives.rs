//! Descriptors, processes, threads, roots.

mod daemon;

use std::thread;
use std::time::{Duration, Instant};

use daemon::{Daemon, command, content, finish};
use shm::{Operation, Reply, Request};

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
    daemon.check("lives", &[life, root.path().to_str().unwrap()]);
    daemon
}

#[test]
fn who_closes_everything_does_not_close_the_channel() {
    assert_eq!(live("closing").channels(), 1);
}

#[test]
fn the_channel_takes_no_standard_number() {
    assert_eq!(live("detached").channels(), 1);
}

#[test]
fn each_process_has_its_channel() {
    // Three children with a child each, and the one behind the C library's back.
    assert_eq!(live("forking").channels(), 1 + 3 * 2 + 1);
}

#[test]
fn a_vfork_child_has_none() {
    assert_eq!(live("vforking").channels(), 1);
}

#[test]
fn threads_that_begin_together_and_fork() {
    live("threading");
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
fn threads_can_be_cancelled() {
    live("cancelling");
}

#[test]
fn the_environment_is_read_at_the_start() {
    assert_eq!(live("forgetful").channels(), 1);
}

#[test]
fn before_main_and_after_it() {
    let daemon = Daemon::start(script);
    daemon.check("early", &[]);
    assert_eq!(daemon.asked().len(), 3);
    assert_eq!(daemon.channels(), 2);
}

#[test]
fn a_new_daemon_in_the_old_ones_place() {
    let first = Daemon::start(script);
    let program = command("lives", &["outliving"], Some(first.dir()));
    let running = thread::spawn(|| finish(program));
    let start = Instant::now();
    while first.asked().is_empty() {
        assert!(start.elapsed() < Duration::from_secs(10), "nobody asks");
        thread::sleep(Duration::from_millis(5));
    }
    let dir = first.stop();
    thread::sleep(Duration::from_millis(200));
    let second = Daemon::start_in(dir, script);
    content(&running.join().unwrap());
    assert_eq!(second.channels(), 1);
}
