//! Descriptors, processes, threads, roots.

mod daemon;

use daemon::Daemon;
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
fn a_number_that_the_program_took_is_left_alone() {
    assert_eq!(live("stolen").channels(), 2);
}
