//! Proxies that have just started, of whom nobody has told.

use std::net::{Ipv4Addr, SocketAddrV4};

use xdp_prog::{Capture, CaptureOtherwise, CaptureStep, CaptureTest};

use crate::netns::isolated;
use crate::place::{
    PROXY, Peer, Place, SERVER, ask, counter, node, output, port_80_to, to, to_proxy, who,
};

/// Where the rules redirect to as well, and nobody listens.
const VACANT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 50081);

#[test]
fn a_restarted_proxy_may_connect_at_once() {
    isolated(|| {
        let mut place = Place::make();
        let capture = place.capture();
        assert_eq!(ask(SERVER, "open 192.0.2.1 80"), "server");
        place.proxy.stop();
        place.proxy = Peer::start("restarted", PROXY);
        // Known as a listener from the time before, and as a process not at all.
        assert_eq!(ask(SERVER, "open 192.0.2.1 80"), "server");
        assert_eq!(ask(SERVER, "child open 192.0.2.1 80"), "server");
        assert_eq!(counter(&capture, "capture_proxy_passed"), 3);
        assert_eq!(who(SERVER).unwrap(), "restarted");
    });
}

fn with_a_vacant_target(capture: &mut Capture) {
    let ask = |port, then, otherwise| CaptureStep::Ask {
        test: CaptureTest::Ports(port..=port),
        then,
        otherwise,
    };
    let nodes = [
        ask(80, 2, 1),
        ask(81, 3, 4),
        to_proxy(),
        to(VACANT, CaptureOtherwise::Reject),
        CaptureStep::Go,
    ];
    capture.set(&nodes.map(node)).unwrap();
}

/// Who answers a program that has run this before it connects to the server; `client` is its socket.
fn after(script: &str) -> String {
    let head = "import time\n\
        from socket import *\n\
        client = socket(); client.settimeout(20)\n";
    let tail = "\nclient.connect(('192.0.2.1', 80)); client.sendall(b'name\\n')\n\
        print(client.makefile().readline().strip())";
    output("python3", &["-c", &[head, script, tail].concat()])
}

#[test]
fn who_binds_where_rules_redirect_to_is_a_proxy() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        with_a_vacant_target(&mut capture);
        for (script, want) in [
            (
                "other = socket(); other.bind(('127.0.0.1', 50081))",
                "server",
            ),
            ("other = socket(); other.bind(('0.0.0.0', 50081))", "server"),
            (
                "other = socket(AF_INET6); other.bind(('::', 50081))",
                "server",
            ),
            (
                "other = socket(AF_INET6); other.bind(('::ffff:127.0.0.1', 50081))",
                "server",
            ),
            (
                "other = socket(AF_INET6); other.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1)\n\
                 other.bind(('::', 50081))",
                "proxy",
            ),
            (
                "other = socket(AF_INET6); other.bind(('::1', 50081))",
                "proxy",
            ),
            (
                "other = socket(); other.bind(('127.0.0.2', 50081))",
                "proxy",
            ),
            (
                "other = socket(); other.bind(('127.0.0.1', 50082))",
                "proxy",
            ),
            (
                "other = socket(type=SOCK_DGRAM); other.bind(('127.0.0.1', 50081))",
                "proxy",
            ),
            // In another network namespace.
            (
                "import ctypes; assert ctypes.CDLL(None).unshare(0x40000000) == 0\n\
                 other = socket(); other.bind(('0.0.0.0', 50081))",
                "proxy",
            ),
            // Taken already.
            (
                "other = socket()\n\
                 try: other.bind(('127.0.0.1', 50080))\n\
                 except OSError: pass",
                "proxy",
            ),
        ] {
            assert_eq!(after(script), want, "{script}");
        }
        // Rules no longer redirect there.
        capture.set(&port_80_to(to_proxy())).unwrap();
        let script = "other = socket(); other.bind(('127.0.0.1', 50081))";
        assert_eq!(after(script), "proxy");
    });
}

#[test]
fn who_has_bound_and_is_never_told_of_is_soon_no_proxy() {
    isolated(|| {
        let place = Place::make();
        let mut capture = place.capture();
        with_a_vacant_target(&mut capture);
        let script = "other = socket(); other.bind(('127.0.0.1', 50081)); time.sleep(10.5)";
        assert_eq!(after(script), "proxy");
    });
}
