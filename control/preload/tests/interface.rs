//! The options themselves: the calls of real clients, and every call that can go wrong.

mod daemon;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use daemon::{Daemon, command, content, finish};
use shm::{Access, Operation, Reply, Request};

/// Answers as the clients expect; a foreign address 240.0.x.y is refused with errno x.y.
fn script(request: &Request) -> Reply {
    let address = |text: &str| Some(text.parse::<SocketAddr>().unwrap());
    let mut reply = Reply::default();
    match (request.operation, request.access) {
        (Operation::Version, Access::Set) if request.version >> 24 != 2 => {
            return Reply::refused(libc::EINVAL);
        }
        (Operation::Version, Access::Get) => reply.version = 0x0200_0006,
        (Operation::Assign, Access::Set) => {
            if let Some(SocketAddr::V4(foreign)) = request.foreign
                && let [240, _, high, low] = foreign.ip().octets()
            {
                return Reply::refused(i32::from(u16::from_be_bytes([high, low])));
            }
        }
        (Operation::Query, Access::Get) => reply.foreign = address("203.0.113.9:0"),
        (Operation::Flags, Access::Get) => reply.flags = 1,
        (Operation::OriginalDestination, Access::Get) => {
            reply.foreign = address("192.0.2.80:8080");
            reply.peer = address("198.51.100.4:4711");
        }
        _ => {}
    }
    reply
}

/// An operation in short, with what it carries.
fn short(request: &Request) -> String {
    let access = match request.access {
        Access::Set => "set",
        Access::Get => "get",
    };
    let mut text = format!("{access} {:?}", request.operation);
    for endpoint in [request.foreign, request.peer].into_iter().flatten() {
        text += &format!(" {endpoint}");
    }
    if request.flags | request.version != 0 {
        text += &format!(" {:#x}", request.flags | request.version);
    }
    text
}

fn asked_by(daemon: &Daemon, client: &str) -> Vec<String> {
    daemon.check("clients", &[client]);
    daemon.asked().iter().map(short).collect()
}

#[test]
fn haproxy() {
    let daemon = Daemon::start(script);
    let expected = [
        "set Version 0x2000000",
        "set Assign 203.0.113.7:4711",
        "set Flags 0x10001",
    ];
    assert_eq!(asked_by(&daemon, "haproxy"), expected);
    assert_eq!(daemon.channels(), 1);
}

#[test]
fn squid() {
    let daemon = Daemon::start(script);
    let expected = [
        "set Assign 203.0.113.8:0",
        "set Flags 0x1",
        "get OriginalDestination",
    ];
    assert_eq!(asked_by(&daemon, "squid"), expected);
}

#[test]
fn zorp() {
    let port = std::sync::atomic::AtomicU16::new(0);
    let daemon = Daemon::start(move |request| {
        let order = std::sync::atomic::Ordering::Relaxed;
        let mut reply = script(request);
        match request.operation {
            Operation::Alloc => port.store(40000, order),
            Operation::Query => {
                reply.foreign.as_mut().unwrap().set_port(port.load(order));
            }
            _ => {}
        }
        reply
    });
    let expected = [
        "set Assign 203.0.113.9:0",
        "get Query",
        "set Alloc",
        "get Query",
        "set Connect 192.0.2.1:80",
        "set Flags 0x1",
        "set Unassign",
        "set Assign 203.0.113.9:21",
        "get Flags",
        "set Flags 0x3",
        "set Assign 203.0.113.9:53",
        "set Flags 0x80002",
        "get Version",
    ];
    assert_eq!(asked_by(&daemon, "zorp"), expected);
}

#[test]
fn every_operation_and_every_mistake() {
    let daemon = Daemon::start(script);
    assert_eq!(daemon.check("interface", &[]), "");
}

#[test]
fn the_original_destination_of_all_that_carries_ipv4() {
    let daemon = Daemon::start(script);
    daemon.check("interface", &["originals", "known"]);
    let asked = daemon.asked();
    assert_eq!(
        asked.len(),
        3 * 49 + 1,
        "a socket without a peer is none of the daemon's"
    );
}

#[test]
fn what_the_daemon_does_not_know_the_kernel_answers() {
    for errno in [libc::ENOENT, libc::EINVAL, libc::EPERM] {
        let daemon = Daemon::start(move |_| Reply::refused(errno));
        daemon.check("interface", &["originals", "unknown"]);
        assert_eq!(daemon.asked().len(), 3);
    }
}

#[test]
fn without_a_daemon_it_is_a_kernel_without_tproxy() {
    let empty = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let output = finish(command("interface", &["nobody"], Some(empty.path())));
    content(&output);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "it waits for nobody"
    );
}

#[test]
fn words_only_when_asked_for() {
    let empty = tempfile::tempdir().unwrap();
    let mut command = command("interface", &["nobody"], Some(empty.path()));
    command.env("XTPROXY_PRELOAD_DEBUG", "1");
    let output = finish(command);
    assert!(output.status.success());
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("xtproxy-preload["), "{told}");
    assert!(told.contains("no daemon answers at"), "{told}");
}
