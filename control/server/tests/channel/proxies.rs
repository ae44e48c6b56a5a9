//! What real proxies ask, in their order.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use protocol::{CLIENT_SOCKET, FlagName, Reply};
use shm::{Access, Operation};
use socket2::{Domain, Socket, Type};
use tables::{FlowKey, FlowTable, Kind, Lookup, NewFlow, OwnerId, Side, Uses};
use wire::{Endpoint, Protocol, Tuple};

use super::{await_registrations, registrations, stats, status};
use crate::conversation::{QUESTION, connect, reply, send_fds};
use crate::fixture::{NOW_NS, Running, endpoint, put, server};
use crate::namespace::inside;
use crate::proxy::{
    APPLIED, CONNECT, ESTABLISHED, LISTEN, ONCE, Proxy, SOON, UNIDIR, bound, local,
};

const CLIENT: &str = "203.0.113.9:0";
const SERVER: &str = "192.0.2.80:80";

/// Whether a worker would give a connection from here a foreign address.
fn is_found(running: &Running, socket: &Socket) -> bool {
    let server = endpoint(SERVER.parse().unwrap());
    let found = running
        .table
        .owner(Protocol::TCP, endpoint(local(socket)), server);
    matches!(found, Lookup::Found(found) if found.uses.any(Uses::CONNECT))
}

#[test]
fn haproxy() {
    inside(|| {
        let (dir, running) = server();
        let proxy = Proxy::new(dir.path());
        let fresh = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let check = |version| {
            proxy.set(Operation::Version, &fresh, |request| {
                request.version = version
            })
        };
        assert_eq!(check(0x0200_0000), Ok(()));
        assert_eq!(check(0x0300_0000), Err(libc::EINVAL));
        let version = proxy.get(Operation::Version, &fresh).unwrap().version;
        assert_eq!(version, 0x0200_0006);

        let socket = bound(Type::STREAM);
        assert_eq!(proxy.flags(&socket, CONNECT), Err(libc::ENOENT));
        proxy.assign(&socket, CLIENT).unwrap();
        assert!(!is_found(&running, &socket));
        proxy.flags(&socket, CONNECT | ONCE).unwrap();
        assert!(is_found(&running, &socket));
        assert_eq!(proxy.assign(&socket, CLIENT), Err(libc::EEXIST));

        let told = registrations(dir.path());
        let [row] = &told[..] else { panic!("{told:?}") };
        assert_eq!((&*row.proto, row.local), ("tcp", local(&socket)));
        assert_eq!((row.foreign, row.peer), (CLIENT.parse().unwrap(), None));
        assert_eq!(row.flags, CONNECT | ONCE);
        assert_eq!(row.uses, [FlagName::Connect.name(), FlagName::Once.name()]);
        assert_eq!((row.pid, row.uid), (std::process::id(), 0));
        assert!(!row.command.is_empty());
        let status = status(dir.path());
        assert_eq!((status.registrations, status.registrations_max), (1, 4096));
        let counters = stats(dir.path()).registrations;
        assert_eq!(counters.get("live"), Some(1));
        assert_eq!(counters.get("made"), Some(1));
        assert_eq!(counters.get("refused"), Some(3));

        drop(socket);
        await_registrations(dir.path(), 0);
        assert_eq!(stats(dir.path()).registrations.get("ended"), Some(1));
    });
}

#[test]
fn zorp() {
    inside(|| {
        let (dir, running) = server();
        let proxy = Proxy::new(dir.path());
        let to = bound(Type::STREAM);
        proxy.assign(&to, "203.0.113.9:4009").unwrap();
        assert_eq!(proxy.foreign(&to).unwrap(), "203.0.113.9:4009");
        proxy.peer(&to, SERVER).unwrap();
        proxy.flags(&to, CONNECT).unwrap();
        assert!(is_found(&running, &to));

        let listener = bound(Type::STREAM);
        proxy.assign(&listener, "203.0.113.5:2121").unwrap();
        listener.listen(8).unwrap();
        let flags = || proxy.get(Operation::Flags, &listener).unwrap().flags;
        assert_eq!(flags(), 0);
        proxy.flags(&listener, LISTEN).unwrap();
        assert_eq!(flags(), LISTEN);

        let chosen = bound(Type::STREAM);
        proxy.assign(&chosen, CLIENT).unwrap();
        assert_eq!(proxy.foreign(&chosen).unwrap(), CLIENT);
        proxy.set(Operation::Alloc, &chosen, |_| {}).unwrap();
        let foreign: SocketAddr = proxy.foreign(&chosen).unwrap().parse().unwrap();
        assert!((32_768..=60_999).contains(&foreign.port()), "{foreign}");

        let datagrams = bound(Type::DGRAM);
        proxy.assign(&datagrams, "203.0.113.5:53").unwrap();
        proxy.flags(&datagrams, LISTEN | UNIDIR).unwrap();
        let both = bound(Type::DGRAM);
        proxy.assign(&both, "203.0.113.6:53").unwrap();
        proxy.peer(&both, "192.0.2.53:53").unwrap();
        proxy.flags(&both, ESTABLISHED).unwrap();
        assert_eq!(proxy.flags(&to, ESTABLISHED), Err(libc::EINVAL));

        assert_eq!(registrations(dir.path()).len(), 5);
        proxy.set(Operation::Unassign, &to, |_| {}).unwrap();
        let again = proxy.set(Operation::Unassign, &to, |_| {});
        assert_eq!(again, Err(libc::ENOENT));
        assert_eq!(proxy.foreign(&to), Err(libc::ENOENT));
        assert_eq!(registrations(dir.path()).len(), 4);
    });
}

/// Puts a flow whose reply comes from this accepted socket.
fn put_flow(flows: &FlowTable, kind: Kind, accepted: &TcpStream, client: Endpoint) {
    let reply = Tuple {
        proto: Protocol::TCP,
        src: endpoint(accepted.local_addr().unwrap()),
        dst: endpoint(accepted.peer_addr().unwrap()),
    };
    let wanted = Endpoint::new(Ipv4Addr::new(192, 0, 2, 80), 80);
    let orig = Tuple {
        proto: Protocol::TCP,
        src: client,
        dst: wanted,
    };
    put(flows, kind, orig, reply, 0);
}

#[test]
fn squid() {
    inside(|| {
        let (dir, running) = server();
        let proxy = Proxy::new(dir.path());
        let lines = connect(dir.path(), CLIENT_SOCKET);
        let listener = TcpListener::bind("10.1.0.1:3128").unwrap();
        let kinds = [
            (Kind::Redirect, true),
            (Kind::Listen, true),
            (Kind::Local, false),
        ];
        for (port, (kind, is_told)) in (40_000..).zip(kinds) {
            let _client = TcpStream::connect("10.1.0.1:3128").unwrap();
            let (accepted, _) = listener.accept().unwrap();
            let client = Endpoint::new(Ipv4Addr::new(198, 51, 100, 7), port);
            put_flow(&running.flows, kind, &accepted, client);
            let (source, destination) = (SocketAddr::from((client.addr, port)), SERVER);
            let asked = proxy.ask(
                Operation::OriginalDestination,
                Access::Get,
                &accepted,
                |_| {},
            );
            send_fds(&lines, QUESTION, &[accepted.as_fd()]);
            let told = reply(&lines);
            if is_told {
                let asked = asked.unwrap();
                assert_eq!(asked.foreign, Some(destination.parse().unwrap()));
                assert_eq!(asked.peer, Some(source));
                let destination = destination.parse().unwrap();
                let expected = Reply::OriginalDestination {
                    source,
                    destination,
                };
                assert_eq!(told, expected, "{kind:?}");
            } else {
                assert_eq!(asked, Err(libc::ENOENT));
                assert!(matches!(told, Reply::Error(_)), "{told:?}");
            }
        }
        let out = bound(Type::STREAM);
        proxy.assign(&out, CLIENT).unwrap();
        proxy.flags(&out, CONNECT).unwrap();
        assert!(is_found(&running, &out));
    });
}

#[test]
fn many_registrations_come_in_several_lines() {
    use std::io::{BufRead, BufReader, Write};
    inside(|| {
        let (dir, _running) = server();
        let proxy = Proxy::new(dir.path());
        let sockets: Vec<Socket> = (0..600).map(|_| bound(Type::STREAM)).collect();
        for socket in &sockets {
            proxy.assign(socket, CLIENT).unwrap();
        }
        let mut stream = connect(dir.path(), protocol::CONTROL_SOCKET);
        writeln!(stream, r#"{{"version":1,"request":"registrations"}}"#).unwrap();
        let mut ports = Vec::new();
        let mut lines = Vec::new();
        for line in BufReader::new(stream).lines() {
            let line = line.unwrap();
            assert!(line.len() < protocol::REPLY_MAX_BYTES / 4);
            let Reply::Registrations {
                registrations,
                more,
            } = serde_json::from_str(&line).unwrap()
            else {
                panic!("{line}");
            };
            lines.push(registrations.len());
            ports.extend(registrations.iter().map(|row| row.local.port()));
            if !more {
                break;
            }
        }
        assert_eq!(lines, [500, 100]);
        ports.sort_unstable();
        let mut expected: Vec<u16> = sockets.iter().map(|one| local(one).port()).collect();
        expected.sort_unstable();
        assert_eq!(ports, expected);
    });
}

/// The owner of a socket's registration.
fn owner(running: &Running, socket: &Socket) -> OwnerId {
    let rows = running.registry.lock().unwrap().rows(NOW_NS);
    let own = rows
        .iter()
        .find(|row| SocketAddr::V4(row.local) == local(socket));
    OwnerId(own.unwrap().owner)
}

#[test]
fn a_registration_has_had_its_flow_however_that_ended() {
    use std::io::Write;
    inside(|| {
        let (dir, running) = server();
        let proxy = Proxy::new(dir.path());
        let registered = || {
            let socket = bound(Type::STREAM);
            proxy.assign(&socket, CLIENT).unwrap();
            proxy.flags(&socket, CONNECT).unwrap();
            socket
        };
        let flags = |socket: &Socket| proxy.get(Operation::Flags, socket).unwrap().flags;
        let flow = |socket: &Socket, age_ns| {
            let orig = Tuple {
                proto: Protocol::TCP,
                src: endpoint(local(socket)),
                dst: endpoint(SERVER.parse().unwrap()),
            };
            let shown = Tuple {
                src: Endpoint::new(Ipv4Addr::new(203, 0, 113, 9), local(socket).port()),
                ..orig
            };
            let new = NewFlow {
                orig: FlowKey::new(Side::Host, &orig),
                reply: FlowKey::new(Side::Wire, &shown.reversed()),
                kind: Kind::Connect,
                generation: 0,
                owner: owner(&running, socket),
            };
            running.flows.insert(&new, NOW_NS - age_ns).unwrap()
        };
        let (old, killed, none) = (registered(), registered(), registered());
        let gone = flow(&old, NOW_NS);
        let start = Instant::now();
        while running.flows.snapshot(gone.id).is_some() || flags(&old) & APPLIED == 0 {
            assert!(start.elapsed() < SOON, "it is not noted");
            thread::sleep(Duration::from_millis(5));
        }
        let id = flow(&killed, 0).id.to_bits();
        let mut root = connect(dir.path(), protocol::CONTROL_SOCKET);
        let filter = format!(r#""filter":{{"id":{id}}}"#);
        writeln!(root, r#"{{"version":1,"request":"flows_kill",{filter}}}"#).unwrap();
        assert_eq!(reply(&root), Reply::Count { count: 1 });
        assert_eq!(flags(&killed), CONNECT | APPLIED);
        assert_eq!(flags(&none), CONNECT);
    });
}
