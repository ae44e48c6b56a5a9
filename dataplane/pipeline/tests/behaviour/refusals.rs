//! First packets that go nowhere.

use std::net::Ipv4Addr;

use pipeline::{DropReason, Event, PortId, Verdict};
use policy::{Action, PortSet, Rule, RuleId, Test};
use wire::{Endpoint, Protocol};

use crate::fixture::*;

fn dropped(outcome: &Outcome, reason: DropReason) {
    assert_eq!(outcome.verdict, Verdict::Drop(reason));
}

/// A reset that refuses the SYN `syn(src, dst, isn)`, sent back by `port`.
fn is_reset_for(outcome: &Outcome, port: PortId, src: Endpoint, dst: Endpoint, isn: u32) {
    assert_eq!(outcome.frame.len(), 54);
    let want = Seen {
        mac_src: PORT_MACS[usize::from(port.0)],
        mac_dst: NEIGHBOUR,
        vlan: None,
        tuple: tcp_tuple(dst, src),
        flags: RST | ACK,
        seq: 0,
        ack: isn + 1,
        payload: Vec::new(),
        embedded: None,
    };
    assert_eq!(outcome.to_wire(port), want);
}

#[test]
fn transit_that_no_rule_takes_is_denied() {
    let mut fw = Firewall::new();
    let ssh = Endpoint::new(SERVER.addr, 22);
    let frames = [
        syn(CLIENT, ssh, 1),
        udp(&udp_tuple(CLIENT, ssh), b"x"),
        echo(CLIENT.addr, SERVER.addr),
    ];
    for frame in frames {
        dropped(&fw.wire(INTRA, frame), DropReason::ForwardDenied);
    }
    // The rule is for the other port.
    dropped(
        &fw.wire(INTER, syn(CLIENT, SERVER, 1)),
        DropReason::ForwardDenied,
    );
    assert_eq!(fw.counters.drops(DropReason::ForwardDenied), 4);
    assert_eq!(fw.flows.counts().live, 0);
    assert_eq!(fw.counters.events(Event::Refused), 0);
    assert_eq!(fw.view().rule_hits.read(RuleId(0)), (0, 0));
}

#[test]
fn only_a_syn_makes_a_flow_of_transit() {
    let mut fw = Firewall::new();
    let tuple = tcp_tuple(CLIENT, SERVER);
    for flags in [
        0,
        ACK,
        SYN | ACK,
        SYN | RST,
        SYN | FIN,
        FIN,
        FIN | ACK,
        RST,
        RST | ACK,
    ] {
        let frame = tcp(&tuple, flags, 1, 1, b"");
        dropped(&fw.wire(INTRA, frame), DropReason::NoFlow);
    }
    assert_eq!(fw.flows.counts().live, 0);
    assert_eq!(fw.view().rule_hits.read(RuleId(0)), (0, 0));
}

#[test]
fn the_boxes_own_connection_that_comes_back_is_refused_by_the_port_it_came_in() {
    for port in [INTRA, INTER] {
        // A rule without -i takes what the proxy sends, were it not recognised.
        let mut fw = Firewall::with_rules(vec![redirect(80, PROXY)]);
        for own in [OWN_INTRA, OWN_INTER] {
            let from = Endpoint::new(own, 50_000);
            let mut frame = syn(from, SERVER, 77);
            is_reset_for(&fw.wire(port, frame.clone()), port, from, SERVER, 77);
            is_reset_for(&fw.slow(port, frame.clone()), port, from, SERVER, 77);
            frame.resize(60, 0);
            is_reset_for(&fw.wire(port, frame), port, from, SERVER, 77);
        }
        assert_eq!(fw.counters.drops(DropReason::Loop), 6);
        assert_eq!(fw.counters.events(Event::Refused), 6);
        assert_eq!(fw.flows.counts().live, 0);
        assert_eq!(fw.view().rule_hits.read(RuleId(0)), (0, 0));
    }
}

#[test]
fn a_reset_goes_back_on_its_vlan_and_behind_what_it_answers() {
    let mut fw = Firewall::new();
    let from = Endpoint::new(OWN_INTRA, 50_000);
    let outcome = fw.wire(INTRA, tagged(ack(from, SERVER, b"hello"), 12));
    let seen = outcome.to_wire(INTRA);
    assert_eq!(seen.vlan, Some(12));
    assert_eq!((seen.flags, seen.seq), (RST, 2001));
    assert_eq!(outcome.frame.len(), 58);
}

#[test]
fn a_datagram_or_a_reset_that_loops_is_dropped_without_an_answer() {
    let mut fw = Firewall::new();
    let from = Endpoint::new(OWN_INTRA, 50_000);
    let datagram = udp(&udp_tuple(from, SERVER), b"x");
    dropped(&fw.wire(INTRA, datagram), DropReason::Loop);
    let reset = tcp(&tcp_tuple(from, SERVER), RST, 1, 0, b"");
    dropped(&fw.wire(INTRA, reset), DropReason::Loop);
    dropped(
        &fw.wire(INTRA, echo(OWN_INTRA, SERVER.addr)),
        DropReason::Loop,
    );
    assert_eq!(fw.counters.drops(DropReason::Loop), 3);
    assert_eq!(fw.counters.events(Event::Refused), 0);
}

#[test]
fn sources_that_no_host_may_have_are_dropped() {
    let mut fw = Firewall::new();
    let sources = [
        [224, 0, 0, 1],
        [239, 255, 255, 255],
        [255, 255, 255, 255],
        [127, 0, 0, 1],
        [0, 0, 0, 0],
    ];
    for (at, source) in sources.into_iter().enumerate() {
        let from = Endpoint::new(Ipv4Addr::from(source), 40_000);
        dropped(&fw.wire(INTRA, syn(from, SERVER, 1)), DropReason::BadSource);
        assert_eq!(fw.counters.drops(DropReason::BadSource), at as u64 + 1);
    }
}

#[test]
fn a_proxy_on_a_foreign_address_is_never_fed() {
    let foreign = Endpoint::new([192, 168, 1, 77].into(), 3128);
    let mut fw = Firewall::with_rules(vec![redirect(80, foreign)]);
    is_reset_for(
        &fw.wire(INTRA, syn(CLIENT, SERVER, 9)),
        INTRA,
        CLIENT,
        SERVER,
        9,
    );
    assert_eq!(fw.counters.drops(DropReason::ProxyNotLocal), 1);
    assert_eq!(fw.flows.counts().live, 0);
}

#[test]
fn without_an_address_on_the_ingress_interface_the_client_is_refused() {
    let rule = Rule {
        action: Action::Redirect {
            addr: None,
            port: Some(3128),
            otherwise: policy::NoListener::Reject,
        },
        ..redirect(80, PROXY)
    };
    let mut fw = Firewall::of(Setting {
        rules: vec![rule],
        first_address: None,
        ..Setting::default()
    });
    is_reset_for(
        &fw.wire(INTRA, syn(CLIENT, SERVER, 9)),
        INTRA,
        CLIENT,
        SERVER,
        9,
    );
    assert_eq!(fw.counters.drops(DropReason::NoLocalAddress), 1);
    // The other interface has one.
    let seen = fw.wire(INTER, syn(CLIENT, SERVER, 9)).to_stack();
    assert_eq!(seen.tuple.dst, Endpoint::new(OWN_INTER, 3128));
}

#[test]
fn a_drop_rule_drops_in_silence() {
    let mut fw = Firewall::with_rules(vec![drop_to(SERVER.addr), redirect(80, PROXY)]);
    dropped(
        &fw.wire(INTRA, syn(CLIENT, SERVER, 1)),
        DropReason::RuleDrop,
    );
    let seen = fw.wire(INTRA, syn(CLIENT, SERVER2, 1)).to_stack();
    assert_eq!(seen.tuple.dst, PROXY);
    let hits = |rule| fw.view().rule_hits.read(RuleId(rule));
    assert_eq!((hits(0), hits(1)), ((1, 40), (1, 40)));
}

#[test]
fn a_full_table_refuses_new_flows_and_carries_the_live_ones() {
    let mut fw = Firewall::of(Setting {
        capacity: 4,
        ..Setting::default()
    });
    let client = |n: u16| Endpoint::new(CLIENT.addr, 40_000 + n);
    for n in 0..4 {
        fw.open(client(n), SERVER, 1);
    }
    for n in 4..10 {
        dropped(
            &fw.wire(INTRA, syn(client(n), SERVER, 1)),
            DropReason::TableFull,
        );
        // The refused one is no flow now either.
        dropped(
            &fw.wire(INTRA, ack(client(n), SERVER, b"x")),
            DropReason::NoFlow,
        );
    }
    for n in 0..4 {
        let seen = fw.wire(INTRA, ack(client(n), SERVER, b"x")).to_stack();
        assert_eq!(seen.tuple, tcp_tuple(client(n), PROXY));
        let seen = fw.stack(INTRA, ack(PROXY, client(n), b"y")).to_wire(INTRA);
        assert_eq!(seen.tuple, tcp_tuple(SERVER, client(n)));
    }
    assert_eq!(fw.flows.counts().live, 4);
    assert_eq!(fw.counters.drops(DropReason::TableFull), 6);
}

#[test]
fn fragments_are_dropped_even_of_a_known_flow() {
    let mut fw = Firewall::new();
    fw.open(CLIENT, SERVER, 1);
    for (hi, lo) in [(0x20, 0), (0x00, 3), (0x20, 3)] {
        let mut frame = ack(CLIENT, SERVER, b"0123456789");
        (frame[20], frame[21]) = (hi, lo);
        dropped(
            &fw.wire(INTRA, with_ip_checksum(frame)),
            DropReason::Fragment,
        );
    }
    assert_eq!(fw.flow().orig.packets, 1);
}

#[test]
fn frames_without_a_mark_or_for_no_port_go_nowhere() {
    let mut fw = Firewall::new();
    let frame = || syn(CLIENT, SERVER, 1);
    let unmarked = fw.one(pipeline::Ingress::HostPort, frame());
    dropped(&unmarked, DropReason::Unmarked);
    let short = fw.one(pipeline::Ingress::HostPort, vec![0; 11]);
    dropped(&short, DropReason::Unmarked);
    let events = |event| fw.counters.events(event);
    assert_eq!((events(Event::FromWire), events(Event::FromStack)), (0, 2));
    dropped(&fw.wire(NOWHERE, frame()), DropReason::NoPortThere);
    dropped(&fw.slow(NOWHERE, frame()), DropReason::NoPortThere);
    dropped(&fw.stack(NOWHERE, frame()), DropReason::NoPortThere);
    assert_eq!(fw.flows.counts().live, 0);
}

#[test]
fn a_rule_for_every_protocol_redirects_only_what_has_ports() {
    let everything = Rule {
        in_ports: PortSet::ALL,
        proto: Test::Any,
        destination_ports: Test::Any,
        ..redirect(80, PROXY)
    };
    let mut fw = Firewall::with_rules(vec![everything]);
    let mut gre = echo(CLIENT.addr, SERVER.addr);
    gre[23] = 47;
    let gre = with_ip_checksum(gre);
    // Twice: the first must not leave a flow that the second could be taken for.
    for _ in 0..2 {
        for frame in [echo(CLIENT.addr, SERVER.addr), gre.clone()] {
            dropped(&fw.wire(INTRA, frame), DropReason::ForwardDenied);
        }
    }
    assert_eq!(fw.flows.counts().live, 0);
    // To the box itself it is delivered as it is.
    let ping = fw.wire(INTRA, echo(CLIENT.addr, OWN_INTRA)).to_stack();
    assert_eq!(ping.tuple.proto, Protocol::ICMP);
    assert_eq!(ping.tuple.dst.addr, OWN_INTRA);
    assert_eq!(
        fw.wire(INTRA, syn(CLIENT, SERVER, 1)).to_stack().tuple,
        tcp_tuple(CLIENT, PROXY)
    );
}
