//! The box's own traffic, while rules want to know all of it.

use pipeline::{DropReason, Ingress, Verdict};
use policy::{Action, ConnState, Hook, RejectWith, Rule, RuleId, Verdict as Policy};
use tables::{FlowState, Kind};
use wire::{Endpoint, Protocol};

use crate::fixture::*;

use ConnState::{Established, Invalid, New, Related, Untracked};

const SHELL: Endpoint = Endpoint::new(OWN_INTRA, 22);

fn denied(outcome: &Outcome, reason: DropReason) {
    assert_eq!(outcome.verdict, Verdict::Drop(reason));
}

/// INPUT and OUTPUT with policy DROP that accept these states.
fn guarded(input_states: &[ConnState], output_states: &[ConnState]) -> Firewall {
    Firewall::of(Setting {
        chains: vec![
            input(vec![accept_state(input_states)]),
            output(vec![accept_state(output_states)]),
        ],
        ..Setting::default()
    })
}

#[test]
fn answers_to_the_boxes_own_connection_are_established() {
    let frames: [(Vec<u8>, Vec<u8>, Protocol); 3] = [
        (
            syn(OWN_CLIENT, SERVER, 1),
            syn_ack(SERVER, OWN_CLIENT, 5, 2),
            Protocol::TCP,
        ),
        (
            udp(&udp_tuple(OWN_CLIENT, SERVER), b"q"),
            udp(&udp_tuple(SERVER, OWN_CLIENT), b"a"),
            Protocol::UDP,
        ),
        (
            echo(OWN_INTER, SERVER.addr),
            echo_reply(SERVER.addr, OWN_INTER),
            Protocol::ICMP,
        ),
    ];
    for (asks, answers, proto) in frames {
        let mut fw = guarded(&[Established], &[New, Established]);
        denied_or_stray(&mut fw, &answers);
        let sent = fw.host(INTER, asks.clone());
        let seen = sent.to_wire(INTER);
        assert_eq!(seen.mac_src, PORT_MACS[1]);
        assert_eq!(sent.frame[12..], asks[12..]);
        let flow = fw.flow();
        assert_eq!(
            (flow.flow.kind, flow.flow.orig.tuple().proto),
            (Kind::Local, proto)
        );
        let got = fw.wire(INTER, answers.clone());
        assert_eq!(got.to_stack().mac_dst, MARKS.to_stack(INTER));
        assert_eq!(got.frame[12..], answers[12..]);
        fw.host(INTER, asks).to_wire(INTER);
        // Without the rule for it the answer stays outside.
        fw.change(|setting| setting.chains[0] = input(Vec::new()));
        denied(&fw.wire(INTER, answers), DropReason::InputDenied);
    }
}

/// An answer to nothing goes nowhere.
fn denied_or_stray(fw: &mut Firewall, frame: &[u8]) {
    denied(&fw.wire(INTER, frame.to_vec()), DropReason::InputDenied);
    assert_eq!(fw.flows.counts().live, 0);
}

#[test]
fn what_the_box_serves_is_asked_for_by_port() {
    let mut fw = Firewall::of(Setting {
        chains: vec![
            input(vec![to_port(22, Action::Accept)]),
            output(vec![accept_state(&[Established])]),
        ],
        ..Setting::default()
    });
    fw.wire(INTRA, syn(CLIENT, SHELL, 1000)).to_stack();
    fw.host(INTRA, syn_ack(SHELL, CLIENT, 2000, 1001))
        .to_wire(INTRA);
    fw.wire(INTRA, ack(CLIENT, SHELL, b"x")).to_stack();
    assert_eq!(fw.flow().state, FlowState::Established);
    let other = Endpoint::new(OWN_INTRA, 25);
    denied(
        &fw.wire(INTRA, syn(CLIENT, other, 1)),
        DropReason::InputDenied,
    );
    // What the box itself begins is not established.
    denied(
        &fw.host(INTER, syn(OWN_CLIENT, SERVER, 1)),
        DropReason::OutputDenied,
    );
    assert_eq!(fw.flows.counts().live, 1);
}

#[test]
fn others_may_ping_the_box() {
    let mut fw = guarded(&[New], &[Established]);
    let ping = echo(CLIENT.addr, OWN_INTRA);
    fw.wire(INTRA, ping.clone()).to_stack();
    let reply = fw.host(INTRA, echo_reply(OWN_INTRA, CLIENT.addr));
    assert_eq!(reply.to_wire(INTRA).payload, b"ping");
    assert_eq!(fw.flow().state, FlowState::Replied);
    // A reply that goes the request's way, or a request that goes the reply's, is neither.
    denied(
        &fw.wire(INTRA, echo_reply(CLIENT.addr, OWN_INTRA)),
        DropReason::InputDenied,
    );
    denied(
        &fw.host(INTRA, echo(OWN_INTRA, CLIENT.addr)),
        DropReason::OutputDenied,
    );
}

#[test]
fn a_ping_whose_identifier_is_a_type_is_no_reply() {
    // An identifier of 8 makes request and reply look alike to a table of tuples.
    let mut fw = guarded(&[New, Established], &[New, Established]);
    let with_id = |mut frame: Vec<u8>| {
        let old = u16::from_be_bytes([frame[38], frame[39]]);
        frame[38..40].copy_from_slice(&8_u16.to_be_bytes());
        let check = u16::from_be_bytes([frame[36], frame[37]]);
        let check = wire::checksum::Delta::ZERO.word(old, 8).apply(check);
        frame[36..38].copy_from_slice(&check.to_be_bytes());
        frame
    };
    fw.wire(INTRA, with_id(echo(CLIENT.addr, OWN_INTRA)))
        .to_stack();
    // What the box asks with the same identifier would take that flow's place.
    denied(
        &fw.host(INTRA, with_id(echo(OWN_INTRA, CLIENT.addr))),
        DropReason::NoPort,
    );
    fw.host(INTRA, with_id(echo_reply(OWN_INTRA, CLIENT.addr)))
        .to_wire(INTRA);
    assert_eq!(fw.flow().reply.packets, 1);
}

#[test]
fn connections_older_than_the_rules_are_picked_up_and_strays_are_invalid() {
    let mut fw = guarded(&[New], &[New]);
    fw.wire(INTRA, ack(CLIENT, SHELL, b"x")).to_stack();
    assert_eq!(fw.flow().state, FlowState::PickedUp);
    fw.host(INTER, ack(OWN_CLIENT, SERVER, b"x")).to_wire(INTER);
    assert_eq!(fw.flows.counts().live, 2);
    let strays = |from, to| {
        [SYN | ACK, RST, RST | ACK, 0, FIN, SYN | FIN]
            .map(|flags| tcp(&tcp_tuple(from, to), flags, 1, 1, b""))
    };
    let other = Endpoint::new(CLIENT.addr, 41_000);
    let own = Endpoint::new(OWN_INTER, 34_000);
    for stray in strays(other, SHELL) {
        denied(&fw.wire(INTRA, stray), DropReason::InputDenied);
    }
    for stray in strays(own, SERVER) {
        denied(&fw.host(INTER, stray), DropReason::OutputDenied);
    }
    // They pass if rules want them to, without a flow.
    let mut fw = guarded(&[Invalid], &[Invalid]);
    for stray in strays(other, SHELL) {
        fw.wire(INTRA, stray).to_stack();
    }
    for stray in strays(own, SERVER) {
        fw.host(INTER, stray).to_wire(INTER);
    }
    assert_eq!(fw.flows.counts().live, 0);
    // To a proxy they never do, nor from where one listens.
    for stray in strays(other, PROXY) {
        denied(&fw.wire(INTRA, stray), DropReason::NoFlow);
    }
    for stray in strays(PROXY, CLIENT) {
        denied(&fw.host(INTRA, stray), DropReason::NoFlowFromStack);
    }
}

#[test]
fn icmp_errors_without_a_flow_are_invalid_and_with_one_related() {
    let mut fw = guarded(&[Related], &[New]);
    let sent = fw.host(INTER, udp(&udp_tuple(OWN_CLIENT, SERVER), b"x"));
    let about = |frame: &[u8]| icmp_error(SERVER.addr, OWN_INTER, frame, usize::MAX);
    fw.wire(INTER, about(&sent.frame)).to_stack();
    let ping = fw.host(INTER, echo(OWN_INTER, SERVER.addr)).frame;
    fw.wire(INTER, about(&ping)).to_stack();
    let unknown = udp(&udp_tuple(OWN_CLIENT, SERVER2), b"x");
    denied(&fw.wire(INTER, about(&unknown)), DropReason::InputDenied);
    let flow = fw.flows.iter().map(|flow| flow.reply.packets);
    assert_eq!(flow.sum::<u64>(), 0, "an error is no answer");
}

#[test]
fn groups_are_asked_about_and_delivered_without_a_flow() {
    let group = Endpoint::new([224, 0, 0, 251].into(), 5353);
    let all = Endpoint::new([255, 255, 255, 255].into(), 67);
    let subnet = Endpoint::new(BROADCAST, 137);
    let nobody = Endpoint::new([0, 0, 0, 0].into(), 68);
    let mut fw = guarded(&[New], &[New]);
    for to in [group, all, subnet] {
        let frame = udp(&udp_tuple(CLIENT, to), b"x");
        let got = fw.wire(INTRA, frame.clone());
        assert_eq!(got.to_stack().mac_dst, MARKS.to_stack(INTRA));
        assert_eq!(got.frame[12..], frame[12..]);
        let own = Endpoint::new(OWN_INTRA, 5353);
        fw.host(INTRA, udp(&udp_tuple(own, to), b"x"))
            .to_wire(INTRA);
        // Nobody speaks for the box from outside.
        denied(
            &fw.wire(INTRA, udp(&udp_tuple(own, to), b"x")),
            DropReason::Loop,
        );
        denied(
            &fw.host(INTRA, udp(&udp_tuple(CLIENT, to), b"x")),
            DropReason::NoFlowFromStack,
        );
    }
    let asks = udp(&udp_tuple(nobody, all), b"DHCP");
    fw.wire(INTRA, asks.clone()).to_stack();
    fw.host(INTRA, asks).to_wire(INTRA);
    assert_eq!(fw.flows.counts().live, 0);
    fw.change(|setting| setting.chains = vec![input(Vec::new()), output(Vec::new())]);
    denied(
        &fw.wire(INTRA, udp(&udp_tuple(CLIENT, group), b"x")),
        DropReason::InputDenied,
    );
    let own = Endpoint::new(OWN_INTRA, 5353);
    denied(
        &fw.host(INTRA, udp(&udp_tuple(own, group), b"x")),
        DropReason::OutputDenied,
    );
}

/// A frame as a neighbour sends it to all of the link.
fn to_all(mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].fill(0xff);
    frame
}

#[test]
fn what_came_to_all_of_a_link_is_for_nobody() {
    let mut fw = Firewall::of(Setting {
        rules: vec![redirect(80, PROXY)],
        chains: vec![
            input(vec![to_port(22, Action::Reject(RejectWith::TcpReset))]),
            output(vec![accept_state(&[Established])]),
        ],
        ..Setting::default()
    });
    let own = Endpoint::new(OWN_INTRA, 50_000);
    let frames = [
        syn(CLIENT, SERVER, 1),
        syn(CLIENT, SHELL, 1),
        syn(own, SERVER, 1),
        udp(&udp_tuple(CLIENT, SHELL), b"x"),
        echo(CLIENT.addr, OWN_INTRA),
    ];
    let intra = Ingress::Port(INTRA);
    for frame in frames.clone().map(to_all) {
        denied(&fw.one(intra, frame), DropReason::BadDestination);
    }
    // Nor is it a packet of a connection that there is.
    fw.change(|setting| setting.chains.clear());
    fw.open(CLIENT, SERVER, 1);
    let data = crate::fixture::firewall::on_wire(INTRA, ack(CLIENT, SERVER, b"x"));
    denied(
        &fw.one(intra, to_all(data.clone())),
        DropReason::BadDestination,
    );
    assert_eq!(fw.flow().orig.packets, 1);
    fw.one(intra, data).to_stack();
    // Multicast stations are many too.
    let mut frame = crate::fixture::firewall::on_wire(INTRA, syn(CLIENT, SERVER2, 1));
    frame[..6].copy_from_slice(&[1, 0, 0x5e, 0, 0, 1]);
    denied(&fw.one(intra, frame), DropReason::BadDestination);
    // What is for a group comes so.
    fw.change(|setting| {
        setting.chains = vec![input(vec![accept_state(&[New])]), output(Vec::new())];
    });
    let group = Endpoint::new([224, 0, 0, 251].into(), 5353);
    let frame = to_all(udp(&udp_tuple(CLIENT, group), b"x"));
    fw.one(intra, frame).to_stack();
}

#[test]
fn what_is_not_tracked_passes_without_a_flow() {
    let no_track = || Rule {
        action: Action::NoTrack,
        ..Rule::default()
    };
    let mut fw = Firewall::of(Setting {
        chains: vec![
            (Hook::RawPrerouting, vec![no_track()], Policy::Accept),
            (Hook::RawOutput, vec![no_track()], Policy::Accept),
            input(vec![accept_state(&[Untracked]), accept_tproxy()]),
            output(vec![accept_state(&[Untracked])]),
        ],
        ..Setting::default()
    });
    for _ in 0..2 {
        fw.wire(INTRA, syn(CLIENT, SHELL, 1)).to_stack();
        fw.host(INTRA, syn_ack(SHELL, CLIENT, 1, 2)).to_wire(INTRA);
        fw.host(INTER, udp(&udp_tuple(OWN_CLIENT, SERVER), b"q"))
            .to_wire(INTER);
        fw.wire(INTER, udp(&udp_tuple(SERVER, OWN_CLIENT), b"a"))
            .to_stack();
    }
    assert_eq!(fw.flows.counts().live, 0);
    // Transit that a rule would redirect is transit now.
    denied(
        &fw.wire(INTRA, syn(CLIENT, SERVER, 1)),
        DropReason::ForwardDenied,
    );
    // A proxy's own endpoint is tracked, whatever they say, and so is a registered one.
    denied(
        &fw.wire(INTRA, syn(CLIENT, PROXY, 1)),
        DropReason::InputDenied,
    );
    fw.register(&listener());
    fw.wire(INTRA, syn(CLIENT, FOREIGN, 1)).to_stack();
    assert_eq!(fw.flow().flow.kind, Kind::Listen);
}

#[test]
fn other_protocols_have_flows_too() {
    let gre = |src, dst| {
        let mut frame = echo(src, dst);
        frame[23] = 47;
        with_ip_checksum(frame)
    };
    let mut fw = guarded(&[Established], &[New]);
    denied(
        &fw.wire(INTER, gre(SERVER.addr, OWN_INTER)),
        DropReason::InputDenied,
    );
    fw.host(INTER, gre(OWN_INTER, SERVER.addr)).to_wire(INTER);
    fw.wire(INTER, gre(SERVER.addr, OWN_INTER)).to_stack();
    assert_eq!(fw.flow().state, FlowState::Replied);
}

#[test]
fn first_fragments_pass_where_nothing_is_translated() {
    let first = |mut frame: Vec<u8>| {
        frame[20] = 0x20;
        with_ip_checksum(frame)
    };
    let mut fw = guarded(&[New, Established], &[New, Established]);
    fw.wire(INTRA, first(udp(&udp_tuple(CLIENT, SHELL), &[7; 64])))
        .to_stack();
    fw.host(INTER, first(udp(&udp_tuple(OWN_CLIENT, SERVER), &[7; 64])))
        .to_wire(INTER);
    assert_eq!(fw.flows.counts().live, 2);
    denied(
        &fw.wire(INTRA, first(syn(CLIENT, SERVER, 1))),
        DropReason::Fragment,
    );
    fw.register(&listener());
    fw.register(&tables::Registration {
        owner: OTHER,
        ..over_udp(caller())
    });
    denied(
        &fw.wire(INTRA, first(syn(CLIENT, FOREIGN, 1))),
        DropReason::Fragment,
    );
    denied(
        &fw.stack(INTER, first(udp(&udp_tuple(CALLER, SERVER), &[7; 64]))),
        DropReason::Fragment,
    );
    assert_eq!(fw.flows.counts().live, 2);
    fw.open(CLIENT, SERVER, 1);
    denied(
        &fw.wire(INTRA, first(ack(CLIENT, SERVER, b"x"))),
        DropReason::Fragment,
    );
    let mut tail = udp(&udp_tuple(CLIENT, SHELL), &[7; 64]);
    tail[21] = 3;
    denied(
        &fw.wire(INTRA, with_ip_checksum(tail)),
        DropReason::Fragment,
    );
}

#[test]
fn owners_reach_the_rules() {
    let by_owner = |bit| {
        only(
            policy::Quality::Owner(bit),
            Rule {
                action: Action::Accept,
                ..Rule::default()
            },
        )
    };
    let mut fw = Firewall::of(Setting {
        chains: vec![output(vec![by_owner(1)])],
        owners: 2,
        ..Setting::default()
    });
    let sent_by = |owners: u8| {
        let mut frame = crate::fixture::firewall::by_box(INTER, syn(OWN_CLIENT, SERVER, 1));
        frame[11] = owners;
        frame
    };
    let host = pipeline::Ingress::HostPort;
    denied(&fw.one(host, sent_by(0)), DropReason::OutputDenied);
    denied(&fw.one(host, sent_by(1)), DropReason::OutputDenied);
    fw.one(host, sent_by(2)).to_wire(INTER);
    assert_eq!(fw.view().rule_hits.read(RuleId(1)).0, 1);
}

#[test]
fn without_such_rules_the_box_goes_on_as_it_is() {
    let mut fw = Firewall::new();
    fw.host(INTER, syn(OWN_CLIENT, SERVER, 1)).to_wire(INTER);
    fw.host(INTER, echo(OWN_INTER, SERVER.addr)).to_wire(INTER);
    fw.wire(INTER, syn_ack(SERVER, OWN_CLIENT, 1, 2)).to_stack();
    assert_eq!(fw.flows.counts().live, 0);
    // But not from where a proxy listens.
    denied(
        &fw.host(INTRA, syn_ack(PROXY, CLIENT, 1, 2)),
        DropReason::NoFlowFromStack,
    );
}
