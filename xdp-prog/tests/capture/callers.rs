//! Whose connections are redirected, and whose are not.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{SockaddrIn, connect as connect_to};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use xdp_prog::{Capture, CaptureListener, SocketWatch};

use crate::child::{Process, role};
use crate::netns::{Neighbour, isolated};
use crate::place::{
    PATIENCE, PROXY, Peer, Place, SERVER, ask, cookie, counter, output, port_80_to, talk, to_proxy,
    who,
};

#[test]
fn what_a_proxy_opens_goes_where_it_wants() {
    isolated(proxies_pass);
}

fn proxies_pass() {
    let place = Place::make();
    let mut capture = place.capture();
    assert_eq!(who(SERVER).unwrap(), "proxy");
    assert_eq!(ask(SERVER, "open 192.0.2.1 80"), "server");
    assert_eq!(ask(SERVER, "child open 192.0.2.1 80"), "server");
    assert_eq!(counter(&capture, "capture_proxy_passed"), 2);
    // Its grandchild has been left to somebody else, and is nobody's.
    assert_eq!(ask(SERVER, "orphan open 192.0.2.1 80"), "proxy");
    // The server is no proxy, nor its children.
    let elsewhere = SocketAddrV4::new(*SERVER.ip(), 81);
    let _stranger = Peer::start("stranger", elsewhere);
    assert_eq!(ask(elsewhere, "open 192.0.2.1 80"), "proxy");
    assert_eq!(ask(elsewhere, "child open 192.0.2.1 80"), "proxy");
    // It is no longer told of.
    let nobody = CaptureListener {
        at: PROXY,
        pids: Vec::new(),
    };
    capture.set_listeners(&[nobody]).unwrap();
    assert_eq!(ask(PROXY, "open 192.0.2.1 80"), "proxy");
}

/// Process numbers are those of the daemon's namespace, not of the first.
#[test]
fn a_daemon_in_a_pid_namespace_means_its_own_numbers() {
    if role().is_some() {
        // `unshare` starts its child as the first, which starts this.
        assert!(std::process::id() < 100, "not in a namespace of its own");
        proxies_pass();
        return;
    }
    let words = "unshare --net --pid --fork --kill-child --mount-proc";
    let words: Vec<&str> = words.split(' ').collect();
    let name = "callers::a_daemon_in_a_pid_namespace_means_its_own_numbers";
    let mut child = Process::start(name, &words);
    assert!(child.wait().success(), "the child's words are above");
}

/// It may hold the sockets of services that it starts on demand.
#[test]
fn the_first_process_makes_no_proxy_of_all_others() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        let listener = CaptureListener {
            at: PROXY,
            pids: vec![1],
        };
        capture.set_listeners(&[listener]).unwrap();
        assert_eq!(who(SERVER).unwrap(), "proxy");
    });
}

#[test]
fn a_process_that_is_told_twice_stays_until_it_is_told_no_more() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        let (proxy, other) = (
            place.proxy.at(PROXY),
            place
                .proxy
                .at(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 50081)),
        );
        for listeners in [
            vec![proxy.clone(), other.clone()],
            vec![proxy.clone()],
            vec![other, proxy.clone()],
            vec![proxy.clone(), proxy],
        ] {
            capture.set_listeners(&listeners).unwrap();
            assert_eq!(ask(SERVER, "open 192.0.2.1 80"), "server");
        }
    });
}

#[test]
fn a_registered_socket_is_not_redirected() {
    isolated(|| {
        let place = Place::make();
        let mut watch = SocketWatch::attach(4).unwrap();
        let mut capture = Capture::attach_beside(64, &watch.maps()).unwrap();
        capture.set_listeners(&[place.proxy.at(PROXY)]).unwrap();
        capture.set(&port_80_to(to_proxy())).unwrap();
        let socket = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        );
        let mut socket = TcpStream::from(socket.unwrap());
        watch.add(cookie(&socket), false).unwrap();
        connect_to(socket.as_raw_fd(), &SockaddrIn::from(SERVER)).unwrap();
        assert_eq!(talk(&mut socket, "name"), "server");
        assert_eq!(who(SERVER).unwrap(), "proxy");
    });
}

#[test]
fn another_namespace_is_left_alone() {
    isolated(|| {
        let place = Place::make();
        let capture = place.capture();
        let neighbour = Neighbour::start();
        let there = neighbour.run(|| {
            let there = Place::make();
            let proxied = who(SERVER).unwrap();
            let curl = output("curl", &["-s", "--max-time", "20", "http://192.0.2.1/"]);
            drop(there);
            (proxied, curl, who(SERVER))
        });
        let alone = ("server".to_owned(), "server".to_owned());
        assert_eq!(there, (alone.0, alone.1, Err(Errno::ECONNREFUSED)));
        assert_eq!(capture.hits().unwrap(), [0; 3]);
        assert_eq!(who(SERVER).unwrap(), "proxy");
    });
}

#[test]
fn what_is_attached_goes_with_its_owner() {
    isolated(|| {
        let place = Place::make();
        let capture = place.capture();
        let mut stream = crate::place::connect(SERVER).unwrap();
        assert_eq!(talk(&mut stream, "name"), "proxy");
        drop(capture);
        assert_eq!(who(SERVER).unwrap(), "server");
        // What was redirected goes on, and the truth comes out.
        assert_eq!(stream.peer_addr().unwrap(), PROXY.into());
    });
}

#[test]
fn a_killed_daemon_leaves_nothing() {
    if let Some(mut parent) = role() {
        let mut pid = [0; 8];
        parent.read_exact(&mut pid).unwrap();
        let mut capture = Capture::attach(4).unwrap();
        let pids = vec![u64::from_ne_bytes(pid) as u32];
        let listener = CaptureListener { at: PROXY, pids };
        capture.set_listeners(&[listener]).unwrap();
        capture.set(&port_80_to(to_proxy())).unwrap();
        parent.write_all(&[0; 8]).unwrap();
        parent.set_read_timeout(Some(PATIENCE)).unwrap();
        drop(parent.read(&mut pid));
        return;
    }
    isolated(|| {
        let place = Place::make();
        let mut child = Process::start("callers::a_killed_daemon_leaves_nothing", &[]);
        child.say(place.proxy.pid.into());
        child.number();
        assert_eq!(who(SERVER).unwrap(), "proxy");
        child.kill();
        assert_eq!(who(SERVER).unwrap(), "server");
    });
}
