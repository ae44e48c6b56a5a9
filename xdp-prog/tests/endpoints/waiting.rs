//! What waits for ARP when its socket closes.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;

use xdp_prog::Direction::Both;

use crate::fixture::{FROM_STACK, UDP};
use crate::netns::{isolated, run};
use crate::senders::{HERE, Scene, each_protocol, open, sharing};
use crate::wires::{Tap, count, wait_for};

/// Nobody has it, so nobody answers for it.
const SILENT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 168, 1, 77), 6000);

/// Sends what waits for ARP, does something in between, and lets it go.
fn resolved_after(scene: &mut Scene, proto: u8, meanwhile: impl FnOnce(&mut Scene, OwnedFd)) {
    let socket = sharing(proto, HERE);
    scene.register(&socket, true);
    scene.endpoints.divert(proto, HERE, Both).unwrap();
    open(proto, &socket, SILENT);
    meanwhile(scene, socket);
    run("ip neigh replace 192.168.1.77 lladdr 02:00:00:00:00:02 dev nic");
}

#[test]
fn what_waits_for_arp_when_its_socket_closes_does_not_leave() {
    each_protocol(|proto| {
        let mut scene = Scene::new();
        let at_client = scene.lab.neighbour.run(Tap::open);
        // Whether its endpoint is still diverted by then, or not any more.
        for (round, is_released) in [false, true].into_iter().enumerate() {
            resolved_after(&mut scene, proto, |scene, socket| {
                drop(socket);
                scene.hear_of_a_close();
                if is_released {
                    scene.endpoints.release(proto, HERE, Both).unwrap();
                    scene.endpoints.release(proto, HERE, Both).unwrap();
                }
            });
            let ended = round as u64 + 1;
            wait_for(|| count(&scene.port.counters().unwrap(), "egress_ended") == ended);
            run("ip neigh del 192.168.1.77 dev nic");
        }
        let leaked = scene.lab.neighbour.run(move || at_client.ipv4_at("far"));
        assert_eq!(leaked, None);
        assert_eq!(count(&scene.port.counters().unwrap(), "egress_diverted"), 0);
    });
}

#[test]
fn what_waits_for_arp_while_its_socket_lives_is_diverted() {
    each_protocol(|proto| {
        let mut scene = Scene::new();
        let (tap, kept) = (Tap::open(), std::cell::RefCell::new(None));
        resolved_after(&mut scene, proto, |_, socket| {
            kept.replace(Some(socket));
        });
        let frame = tap.ipv4_at("xtp0-dp").expect("diverted");
        assert_eq!(frame[6..12], FROM_STACK);
    });
}

/// It may be the answer of a listener, whose flow has gone with its socket.
#[test]
fn nor_does_what_a_socket_has_left_that_might_send_as_it_is() {
    isolated(|| {
        let mut scene = Scene::new();
        let at_client = scene.lab.neighbour.run(Tap::open);
        let socket = sharing(UDP, HERE);
        scene.register(&socket, false);
        open(UDP, &socket, SILENT);
        drop(socket);
        scene.hear_of_a_close();
        run("ip neigh replace 192.168.1.77 lladdr 02:00:00:00:00:02 dev nic");
        wait_for(|| count(&scene.port.counters().unwrap(), "egress_ended") == 1);
        let leaked = scene.lab.neighbour.run(move || at_client.ipv4_at("far"));
        assert_eq!(leaked, None);
    });
}
