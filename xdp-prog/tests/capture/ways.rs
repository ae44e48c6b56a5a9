//! Ways to connect.

use std::io::ErrorKind;
use std::net::{
    IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Instant;

use nix::errno::Errno;
use xdp_prog::{Capture, CaptureOtherwise, CaptureRefusal, CaptureStep, CaptureTest};

use crate::netns::{isolated, run};
use crate::place::{
    PATIENCE, PROXY, Peer, Place, SERVER, connect, cookie, counter, node, output, talk, to,
    to_proxy, when, who,
};

#[test]
fn the_program_sees_the_peer_that_it_asked_for_and_others_can_ask_too() {
    isolated(|| {
        let place = Place::make();
        let capture = place.capture();
        let mut stream = connect(SERVER).unwrap();
        let cookie = cookie(&stream);
        assert_eq!(stream.peer_addr().unwrap(), SERVER.into());
        assert_eq!(talk(&mut stream, "name"), "proxy");
        assert_eq!(capture.original(cookie).unwrap(), Some(SERVER));
        capture.forget(cookie).unwrap();
        assert_eq!(capture.original(cookie).unwrap(), Some(SERVER));
        drop(stream);
        assert_eq!(capture.original(cookie).unwrap(), Some(SERVER));
        capture.forget(cookie).unwrap();
        assert_eq!(capture.original(cookie).unwrap(), None);
        capture.forget(cookie).unwrap();
        let direct = connect(PROXY).unwrap();
        let direct_cookie = crate::place::cookie(&direct);
        assert_eq!(capture.original(direct_cookie).unwrap(), None);
        assert_eq!(direct.peer_addr().unwrap(), PROXY.into());
    });
}

#[test]
fn a_mapped_address_of_version_6_is_the_same() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        let mapped = SocketAddr::new(IpAddr::V6(SERVER.ip().to_ipv6_mapped()), 80);
        let mut stream = TcpStream::connect_timeout(&mapped, PATIENCE).unwrap();
        assert_eq!(talk(&mut stream, "name"), "proxy");
        assert_eq!(stream.peer_addr().unwrap(), mapped);
        assert_eq!(capture.original(cookie(&stream)).unwrap(), Some(SERVER));
        capture
            .set(&[node(CaptureStep::Refuse(CaptureRefusal::Refused))])
            .unwrap();
        let error = TcpStream::connect_timeout(&mapped, PATIENCE).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        // True version 6, which these rules say nothing of, even with everything redirected.
        capture.set(&[node(to_proxy())]).unwrap();
        let there = TcpListener::bind((Ipv6Addr::LOCALHOST, 80)).unwrap();
        let stream = TcpStream::connect_timeout(&there.local_addr().unwrap(), PATIENCE).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), there.local_addr().unwrap());
        assert_eq!(counter(&capture, "capture_redirected"), 1);
    });
}

const PYTHON: &str = r#"
import ctypes, errno, select, socket, struct
SERVER, PROXY = ('192.0.2.1', 80), ('127.0.0.1', 50080)

def heard(client):
    return client.makefile().readline().strip(), client.getpeername() == SERVER

def waits():
    client = socket.socket()
    client.setblocking(False)
    begun = client.connect_ex(SERVER)
    select.select([], [client], [], 20)
    done = client.connect_ex(SERVER)
    again = client.connect_ex(SERVER)
    client.settimeout(20)
    client.sendall(b'name\n')
    return errno.errorcode[begun], done, errno.errorcode[again], *heard(client)

def patient():
    client = socket.socket()
    for option in [socket.SO_RCVTIMEO, socket.SO_SNDTIMEO]:
        client.setsockopt(socket.SOL_SOCKET, option, struct.pack('ll', 20, 0))
    return client

def fast_open():
    client = patient()
    client.sendto(b'name\n', socket.MSG_FASTOPEN, SERVER)
    return heard(client)

def fast_open_connect():
    client = patient()
    client.setsockopt(socket.IPPROTO_TCP, 30, 1)
    client.connect(SERVER)
    client.sendall(b'name\n')
    return heard(client)

def several_paths(count):
    seen = set()
    for _ in range(count):
        client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
        client.settimeout(20)
        client.connect(SERVER)
        client.sendall(b'name\n')
        seen.add((client.makefile().readline().strip(), client.getpeername() == PROXY))
        client.close()
    return seen

def bound():
    client = patient()
    client.bind(('192.0.2.2', 0))
    client.connect(SERVER)
    client.sendall(b'name\n')
    return *heard(client), client.getsockname()[0]

def once_more():
    client = patient()
    client.connect(SERVER)
    socket_again(client)
    client.connect(PROXY)
    return client.getpeername() == PROXY

def after_refusal():
    client = patient()
    refused = client.connect_ex(('192.0.2.2', 80))
    client.connect(SERVER)
    client.sendall(b'name\n')
    return errno.errorcode[refused], *heard(client)

def socket_again(client):
    unspecified = (ctypes.c_char * 16)()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.connect(client.fileno(), unspecified, 16) == 0, ctypes.get_errno()
"#;

fn python(call: &str) -> String {
    output("python3", &["-c", &format!("{PYTHON}\nprint({call})")])
}

#[test]
fn a_socket_that_does_not_wait_is_redirected_once() {
    isolated(|| {
        let place = Place::make();
        let capture = place.capture();
        assert_eq!(
            python("waits()"),
            "('EINPROGRESS', 0, 'EISCONN', 'proxy', True)"
        );
        assert_eq!(capture.hits().unwrap(), [1, 1, 0]);
    });
}

#[test]
fn data_with_the_first_packet_makes_no_difference() {
    isolated(|| {
        let place = Place::make();
        run("sysctl -qw net.ipv4.tcp_fastopen=3");
        let capture = place.capture();
        // The second time with a cookie, hence with data in the SYN.
        for _ in 0..2 {
            assert_eq!(python("fast_open()"), "('proxy', True)");
            assert_eq!(python("fast_open_connect()"), "('proxy', True)");
        }
        assert_eq!(counter(&capture, "capture_redirected"), 4);
    });
}

/// Its end is told to nobody, so it must not take a place for good. It sees the proxy as its peer.
#[test]
fn a_socket_of_several_paths_is_redirected_and_takes_no_place() {
    isolated(|| {
        let place = Place::make();
        let mut capture = Capture::attach(1).unwrap();
        capture.set_listeners(&[place.proxy.at(PROXY)]).unwrap();
        let by_root = when(CaptureTest::Users(0..=0), true, to_proxy());
        capture.set(&by_root).unwrap();
        assert_eq!(python("several_paths(500)"), "{('proxy', True)}");
        assert_eq!(counter(&capture, "capture_redirected"), 500);
    });
}

#[test]
fn a_bound_socket_keeps_its_address() {
    isolated(|| {
        let place = Place::make();
        let _capture = place.capture();
        assert_eq!(python("bound()"), "('proxy', True, '192.0.2.2')");
    });
}

#[test]
fn a_socket_that_connects_again_is_judged_again() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        assert_eq!(python("once_more()"), "True");
        let other = CaptureTest::Network {
            addr: Ipv4Addr::new(192, 0, 2, 2),
            mask: Ipv4Addr::BROADCAST,
        };
        let mut nodes = when(other, true, CaptureStep::Refuse(CaptureRefusal::Refused));
        nodes[2] = node(to_proxy());
        capture.set(&nodes).unwrap();
        assert_eq!(python("after_refusal()"), "('ECONNREFUSED', 'proxy', True)");
    });
}

#[test]
fn curl_gets_the_proxy_and_its_second_address_if_the_first_is_refused() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        let curl = |more: &[&str]| {
            output(
                "curl",
                &[&["-s", "--noproxy", "*", "--max-time", "20"], more].concat(),
            )
        };
        assert_eq!(curl(&["http://192.0.2.1/"]), "proxy");
        let report = ["-w", " %{remote_ip}:%{remote_port}", "http://192.0.2.1/"];
        assert_eq!(curl(&report), "proxy 192.0.2.1:80");
        let first = CaptureTest::Network {
            addr: Ipv4Addr::new(192, 0, 2, 2),
            mask: Ipv4Addr::BROADCAST,
        };
        for how in [CaptureRefusal::Refused, CaptureRefusal::NotPermitted] {
            let mut nodes = when(first.clone(), true, CaptureStep::Refuse(how));
            nodes[2] = node(to_proxy());
            capture.set(&nodes).unwrap();
            let named = [
                "--resolve",
                "web.test:80:192.0.2.2,192.0.2.1",
                "http://web.test/",
            ];
            assert_eq!(curl(&named), "proxy");
        }
    });
}

#[test]
fn netcat_gets_the_proxy() {
    isolated(|| {
        let place = Place::make();
        let _capture = place.capture();
        let heard = output(
            "sh",
            &["-c", "echo name | timeout 20 nc -w 20 192.0.2.1 80"],
        );
        assert_eq!(heard, "proxy");
    });
}

#[test]
fn datagrams_are_not_connections() {
    isolated(|| {
        let _place = Place::make();
        let mut capture = _place.capture();
        capture
            .set(&[node(CaptureStep::Refuse(CaptureRefusal::Refused))])
            .unwrap();
        let [here, there] = [(); 2].map(|()| UdpSocket::bind("192.0.2.1:0").unwrap());
        here.connect(there.local_addr().unwrap()).unwrap();
        here.send(b"x").unwrap();
        there.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(there.recv(&mut [0; 4]).unwrap(), 1);
        assert_eq!(here.peer_addr().unwrap(), there.local_addr().unwrap());
    });
}

/// Two programs that redirect everything are exchanged; the server is never reached.
#[test]
fn while_decisions_are_exchanged_every_connection_meets_one() {
    isolated(|| {
        let place = Place::make();
        let second = SocketAddrV4::new(*PROXY.ip(), 50081);
        let other = Peer::start("other", second);
        let mut capture = place.capture();
        capture
            .set_listeners(&[place.proxy.at(PROXY), other.at(second)])
            .unwrap();
        // Long ones with a refusal in the middle, where a mix would end.
        let long = |step: CaptureStep, at: u16| {
            let mut nodes = vec![node(CaptureStep::Refuse(CaptureRefusal::NoProtocol)); 4096];
            nodes[0] = node(CaptureStep::Pass { then: at });
            nodes[usize::from(at)] = node(step);
            nodes
        };
        let programs = [
            long(to_proxy(), 4000),
            long(to(second, CaptureOtherwise::Reject), 3000),
        ];
        capture.set(&programs[0]).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(AtomicU32::new(0));
        let (stopped, counted) = (stop.clone(), seen.clone());
        let client = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let name = who(SERVER);
                assert!(matches!(name.as_deref(), Ok("proxy" | "other")), "{name:?}");
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        let end = Instant::now() + PATIENCE;
        for turn in 0..200 {
            capture.set(&programs[turn % 2]).unwrap();
            let want = if turn % 2 == 0 { "proxy" } else { "other" };
            assert_eq!(who(SERVER).unwrap(), want);
            assert!(Instant::now() < end, "only {turn} turns");
        }
        stop.store(true, Ordering::Relaxed);
        client.join().unwrap();
        assert!(seen.load(Ordering::Relaxed) > 10);
    });
}

#[test]
fn loopback_and_own_addresses_are_destinations_like_all_others() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        let local = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80);
        assert_eq!(who(local).unwrap(), "proxy");
        let loopback = CaptureTest::Network {
            addr: Ipv4Addr::new(127, 0, 0, 0),
            mask: Ipv4Addr::new(255, 0, 0, 0),
        };
        capture.set(&when(loopback, false, to_proxy())).unwrap();
        assert_eq!(who(local), Err(Errno::ECONNREFUSED));
        assert_eq!(who(SERVER).unwrap(), "proxy");
    });
}
