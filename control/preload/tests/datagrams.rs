//! Datagrams with their original addresses.

mod daemon;

use std::net::SocketAddr;

use daemon::Daemon;
use shm::{Operation, Reply, Request};

/// The original addresses are made of the shown port, and hold for so many milliseconds.
fn daemon(fresh_ms: u32) -> Daemon {
    Daemon::start(move |request| answer(request, fresh_ms))
}

fn answer(request: &Request, fresh_ms: u32) -> Reply {
    let mut reply = Reply::default();
    if request.operation == Operation::OriginalDestination {
        let port = request.peer.unwrap().port();
        let [high, low] = port.to_be_bytes();
        reply.peer = Some(SocketAddr::from(([10, 1, high, low], port)));
        reply.foreign = Some(SocketAddr::from(([192, 0, 2, 1], 53)));
        reply.flags = fresh_ms;
    }
    reply
}

fn questions(daemon: &Daemon) -> usize {
    let asked = daemon.asked();
    let is_question = |request: &&Request| request.operation == Operation::OriginalDestination;
    asked.iter().filter(is_question).count()
}

#[test]
fn ten_thousand_of_a_thousand_sources() {
    let daemon = daemon(60_000);
    daemon.check("datagrams", &["many", "1000", "10"]);
    assert_eq!(questions(&daemon), 1000, "an answer holds for a minute");
}

#[test]
fn an_answer_that_does_not_hold_is_asked_for_again() {
    let daemon = daemon(0);
    daemon.check("datagrams", &["many", "20", "5"]);
    assert_eq!(questions(&daemon), 100);
}

#[test]
fn headers_of_every_shape() {
    daemon(0).check("datagrams", &["shapes"]);
}

#[test]
fn many_at_once() {
    daemon(0).check("datagrams", &["batches"]);
}

#[test]
fn only_who_asked() {
    daemon(0).check("datagrams", &["without"]);
}

#[test]
fn who_asked_and_is_gone_is_forgotten() {
    daemon(0).check("datagrams", &["crowd"]);
}

#[test]
fn a_datagram_to_the_socket_itself_has_none() {
    let daemon = Daemon::start(|request| match request.operation {
        Operation::OriginalDestination => Reply::refused(libc::ENOENT),
        _ => Reply::default(),
    });
    daemon.check("datagrams", &["unknown"]);
    assert_eq!(questions(&daemon), 1);
}
