//! What a node asks and what it does.

use std::net::{Ipv4Addr, SocketAddrV4};

use nix::errno::Errno;
use xdp_prog::{
    Capture, CaptureNode, CaptureOtherwise, CaptureRefusal, CaptureStep, CaptureTest, Error,
};

use crate::netns::isolated;
use crate::place::{
    PROXY, Peer, Place, SERVER, connect, counter, node, output, port_80_to, talk, to, to_proxy,
    when, who,
};

/// Whether a test sends the connection to the proxy, and the opposite of it does not.
fn takes(capture: &mut Capture, test: &CaptureTest) -> bool {
    let [plain, turned] = [true, false].map(|wanted| {
        let nodes = when(test.clone(), wanted, to_proxy());
        capture.set(&nodes).unwrap();
        who(SERVER).unwrap() == "proxy"
    });
    assert_ne!(plain, turned, "{test:?}");
    plain
}

fn network(addr: [u8; 4], mask: [u8; 4]) -> CaptureTest {
    CaptureTest::Network {
        addr: addr.into(),
        mask: mask.into(),
    }
}

#[test]
fn the_destination_is_asked_for() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        let range = |from: [u8; 4], to: [u8; 4]| {
            CaptureTest::Range(Ipv4Addr::from(from)..=Ipv4Addr::from(to))
        };
        for (test, want) in [
            (network([192, 0, 2, 0], [255, 255, 255, 0]), true),
            (network([192, 0, 3, 0], [255, 255, 255, 0]), false),
            (network([192, 0, 2, 1], [255; 4]), true),
            (network([0, 0, 0, 1], [0, 0, 0, 255]), true),
            (network([0; 4], [0; 4]), true),
            (range([192, 0, 2, 1], [192, 0, 2, 1]), true),
            (range([10, 0, 0, 0], [192, 0, 2, 0]), false),
            (range([192, 0, 2, 2], [255; 4]), false),
            (CaptureTest::Ports(80..=80), true),
            (CaptureTest::Ports(0..=79), false),
            (CaptureTest::Ports(81..=65535), false),
        ] {
            assert_eq!(takes(&mut capture, &test), want, "{test:?}");
        }
    });
}

#[test]
fn the_owner_is_the_one_who_made_the_socket() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        for (test, want) in [
            (CaptureTest::Users(0..=0), true),
            (CaptureTest::Users(1..=u32::MAX), false),
            (CaptureTest::Groups(0..=0), true),
            (CaptureTest::Groups(1..=u32::MAX), false),
        ] {
            assert_eq!(takes(&mut capture, &test), want, "{test:?}");
        }
        let client = "import os, socket, sys\n\
            early = socket.socket()\n\
            os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[1]))\n\
            late = socket.socket()\n\
            for client in [early, late]:\n\
            \x20   client.settimeout(20); client.connect(('192.0.2.1', 80))\n\
            \x20   client.sendall(b'name\\n'); print(client.makefile().readline().strip())";
        let heard = || output("python3", &["-c", client, "12", "34"]);
        capture
            .set(&when(CaptureTest::Users(12..=12), true, to_proxy()))
            .unwrap();
        assert_eq!(heard(), "server\nproxy");
        capture
            .set(&when(CaptureTest::Groups(34..=40), true, to_proxy()))
            .unwrap();
        assert_eq!(heard(), "server\nproxy");
        capture
            .set(&when(CaptureTest::Groups(35..=40), true, to_proxy()))
            .unwrap();
        assert_eq!(heard(), "server\nserver");
    });
}

#[test]
fn the_mark_is_the_sockets() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        let test = CaptureTest::Mark {
            value: 0x10,
            mask: 0xf0,
        };
        assert!(!takes(&mut capture, &test));
        capture.set(&when(test, true, to_proxy())).unwrap();
        let client = "import socket\n\
            client = socket.socket(); client.settimeout(20)\n\
            client.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x1f)\n\
            client.connect(('192.0.2.1', 80))\n\
            client.sendall(b'name\\n'); print(client.makefile().readline().strip())";
        assert_eq!(output("python3", &["-c", client]), "proxy");
    });
}

#[test]
fn a_refusal_has_its_error() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        for (how, error) in [
            (CaptureRefusal::NotPermitted, Errno::EPERM),
            (CaptureRefusal::Refused, Errno::ECONNREFUSED),
            (CaptureRefusal::NetworkUnreachable, Errno::ENETUNREACH),
            (CaptureRefusal::HostUnreachable, Errno::EHOSTUNREACH),
            (CaptureRefusal::NoProtocol, Errno::ENOPROTOOPT),
        ] {
            capture.set(&port_80_to(CaptureStep::Refuse(how))).unwrap();
            assert_eq!(who(SERVER), Err(error));
        }
        assert_eq!(counter(&capture, "capture_dropped"), 1);
        assert_eq!(counter(&capture, "capture_rejected"), 4);
        let other = SocketAddrV4::new(*SERVER.ip(), 81);
        let _other = Peer::start("other", other);
        assert_eq!(who(other).unwrap(), "other");
    });
}

#[test]
fn where_nobody_listens_the_rule_says_what_becomes_of_it() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        let nowhere = SocketAddrV4::new(*PROXY.ip(), 50081);
        for (otherwise, want) in [
            (CaptureOtherwise::Reject, Err(Errno::ECONNREFUSED)),
            (CaptureOtherwise::Drop, Err(Errno::ETIMEDOUT)),
            (CaptureOtherwise::Accept, Ok("server".to_owned())),
        ] {
            capture.set(&port_80_to(to(nowhere, otherwise))).unwrap();
            assert_eq!(who(SERVER), want);
        }
        assert_eq!(counter(&capture, "capture_no_listener"), 2);
        // Somebody listens there, but nobody has said so.
        let late = Peer::start("late", nowhere);
        let nodes = port_80_to(to(nowhere, CaptureOtherwise::Reject));
        capture.set(&nodes).unwrap();
        assert_eq!(who(SERVER), Err(Errno::ECONNREFUSED));
        capture.set_listeners(&[late.at(nowhere)]).unwrap();
        assert_eq!(who(SERVER).unwrap(), "late");
        let anywhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, nowhere.port());
        capture.set_listeners(&[late.at(anywhere)]).unwrap();
        assert_eq!(who(SERVER).unwrap(), "late");
        capture.set_listeners(&[]).unwrap();
        assert_eq!(who(SERVER), Err(Errno::ECONNREFUSED));
    });
}

#[test]
fn a_redirect_without_a_port_keeps_it_and_one_to_itself_is_none() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        let at = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 80);
        let beside = Peer::start("beside", at);
        capture
            .set_listeners(&[beside.at(at), place.proxy.at(PROXY)])
            .unwrap();
        let step = CaptureStep::Redirect {
            addr: *at.ip(),
            port: None,
            otherwise: CaptureOtherwise::Reject,
        };
        capture.set(&port_80_to(step)).unwrap();
        assert_eq!(who(SERVER).unwrap(), "beside");
        assert_eq!(counter(&capture, "capture_redirected"), 1);
        assert_eq!(who(at).unwrap(), "beside");
        assert_eq!(counter(&capture, "capture_redirected"), 1);
        // The proxy itself, whatever else is redirected to it.
        capture.set(&[node(to_proxy())]).unwrap();
        assert_eq!(who(PROXY).unwrap(), "proxy");
        assert_eq!(counter(&capture, "capture_redirected"), 1);
    });
}

#[test]
fn a_socket_bound_to_a_device_is_not_sent_to_loopback_by_it() {
    isolated(|| {
        let place = Place::make();
        let capture = place.capture();
        crate::netns::run("ip link add nic type veth peer name far");
        crate::netns::run("ip addr add 198.51.100.1/24 dev nic");
        crate::netns::run("ip link set nic up");
        let client = |device: &str| {
            let script = "import socket, sys\n\
                client = socket.socket(); client.settimeout(20)\n\
                client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, sys.argv[1].encode())\n\
                try: client.connect(('192.0.2.1', 80)); client.sendall(b'name\\n')\n\
                except OSError as error: print(error.errno); sys.exit()\n\
                print(client.makefile().readline().strip())";
            output("python3", &["-c", script, device])
        };
        assert_eq!(client("nic"), (Errno::EHOSTUNREACH as i32).to_string());
        assert_eq!(counter(&capture, "capture_off_device"), 1);
        assert_eq!(client("lo"), "proxy");
    });
}

#[test]
fn who_comes_by_is_counted() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        assert_eq!(capture.hits().unwrap(), [0; 3]);
        who(SERVER).unwrap();
        who(SERVER).unwrap();
        who(PROXY).unwrap();
        assert_eq!(capture.hits().unwrap(), [3, 2, 1]);
        let mut nodes = port_80_to(to_proxy());
        nodes[0].counts = false;
        capture.set(&nodes).unwrap();
        who(SERVER).unwrap();
        assert_eq!(capture.hits().unwrap(), [0, 1, 0]);
        capture.set(&[]).unwrap();
        assert_eq!(who(SERVER).unwrap(), "server");
        assert!(capture.hits().unwrap().is_empty());
        capture.set(&[]).unwrap();
    });
}

#[test]
fn the_longest_program_is_walked_to_its_end_and_a_wrong_one_changes_nothing() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        let mut nodes: Vec<CaptureNode> = (1..4096)
            .map(|next| CaptureStep::Ask {
                test: CaptureTest::Ports(81..=81),
                then: next,
                otherwise: next,
            })
            .map(node)
            .collect();
        nodes.push(node(to_proxy()));
        capture.set(&nodes).unwrap();
        assert_eq!(who(SERVER).unwrap(), "proxy");
        assert_eq!(capture.hits().unwrap(), vec![1; 4096]);
        nodes.push(node(CaptureStep::Go));
        let error = capture.set(&nodes).unwrap_err();
        assert!(error.to_string().contains("4097"), "{error}");
        let error = capture
            .set(&[node(CaptureStep::Pass { then: 0 })])
            .unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert_eq!(who(SERVER).unwrap(), "proxy");
        assert_eq!(capture.hits().unwrap(), vec![2; 4096]);
    });
}

#[test]
fn a_full_table_refuses_and_says_so() {
    isolated(|| {
        let place = Place::make();
        let mut capture = Capture::attach(1).unwrap();
        capture.set_listeners(&[place.proxy.at(PROXY)]).unwrap();
        capture.set(&port_80_to(to_proxy())).unwrap();
        // The kernel's table has some room beyond what was asked for.
        let mut open = Vec::new();
        let error = loop {
            match connect(SERVER) {
                Ok(stream) => open.push(stream),
                Err(error) => break error,
            }
            assert!(open.len() < 1024);
        };
        assert_eq!(error, Errno::ENOBUFS);
        assert_eq!(counter(&capture, "capture_full"), 1);
        for mut stream in open.drain(..) {
            assert_eq!(talk(&mut stream, "name"), "proxy");
        }
        assert_eq!(who(SERVER).unwrap(), "proxy");
    });
}
