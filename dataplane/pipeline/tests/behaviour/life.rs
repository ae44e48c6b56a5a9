//! A redirected connection from its SYN to its end.

use pipeline::Event;
use policy::RuleId;
use tables::{FlowState, Kind, Side};
use wire::{Protocol, Tuple};

use crate::fixture::*;

fn there() -> Tuple {
    tcp_tuple(CLIENT, SERVER)
}

/// What the proxy sends and gets on behalf of [`there`].
fn from_proxy() -> Tuple {
    tcp_tuple(PROXY, CLIENT)
}

/// A segment of the client, as the stack gets it.
fn goes_to_proxy(fw: &mut Firewall, vlan: Option<u16>, segment: &[u8]) -> Seen {
    let sent = read(segment);
    let frame = vlan.map_or(segment.to_vec(), |id| tagged(segment.to_vec(), id));
    let seen = fw.wire(INTRA, frame).to_stack();
    let want = Seen {
        tuple: tcp_tuple(CLIENT, PROXY),
        mac_src: NEIGHBOUR,
        mac_dst: MARKS.to_stack(INTRA),
        vlan,
        ..sent
    };
    assert_eq!(seen, want);
    seen
}

/// A segment of the proxy, as the client gets it.
fn goes_to_client(fw: &mut Firewall, vlan: Option<u16>, segment: &[u8]) -> Seen {
    let sent = read(segment);
    let frame = vlan.map_or(segment.to_vec(), |id| tagged(segment.to_vec(), id));
    let seen = fw.stack(INTRA, frame).to_wire(INTRA);
    let want = Seen {
        tuple: tcp_tuple(SERVER, CLIENT),
        mac_src: PORT_MACS[0],
        mac_dst: NEIGHBOUR,
        vlan,
        ..sent
    };
    assert_eq!(seen, want);
    seen
}

fn establish(fw: &mut Firewall, vlan: Option<u16>) {
    goes_to_proxy(fw, vlan, &syn(CLIENT, SERVER, 1000));
    assert_eq!(fw.flow().state, FlowState::SynSent);
    goes_to_client(fw, vlan, &syn_ack(PROXY, CLIENT, 2000, 1001));
    assert_eq!(fw.flow().state, FlowState::SynReceived);
    goes_to_proxy(fw, vlan, &ack(CLIENT, SERVER, b""));
    assert_eq!(fw.flow().state, FlowState::Established);
}

fn lives_from_syn_to_fin(vlan: Option<u16>) {
    let mut fw = Firewall::new();
    establish(&mut fw, vlan);
    let flow = fw.flow();
    assert_eq!(flow.flow.kind, Kind::Redirect);
    assert_eq!(flow.flow.generation, 1);
    assert_eq!(
        (flow.flow.orig.tuple(), flow.flow.orig.side()),
        (there(), Side::Wire)
    );
    assert_eq!(
        (flow.flow.reply.tuple(), flow.flow.reply.side()),
        (from_proxy(), Side::Host)
    );

    goes_to_proxy(
        &mut fw,
        vlan,
        &ack(CLIENT, SERVER, b"GET / HTTP/1.1\r\n\r\n"),
    );
    let answer = tcp(&from_proxy(), ACK, 2001, 1019, &[b'x'; 1001]);
    goes_to_client(&mut fw, vlan, &answer);
    goes_to_proxy(&mut fw, vlan, &tcp(&there(), FIN | ACK, 1019, 3002, b""));
    assert_eq!(fw.flow().state, FlowState::HalfClosed);
    goes_to_client(&mut fw, vlan, &tcp(&from_proxy(), ACK, 3002, 1020, b"late"));
    let fin = tcp(&from_proxy(), FIN | ACK, 3006, 1020, b"");
    goes_to_client(&mut fw, vlan, &fin);
    assert_eq!(fw.flow().state, FlowState::Closing);
    goes_to_proxy(&mut fw, vlan, &tcp(&there(), ACK, 1020, 3007, b""));

    let flow = fw.flow();
    assert_eq!(flow.state, FlowState::Closed);
    assert_eq!((flow.orig.packets, flow.orig.bytes), (5, 5 * 40 + 18));
    assert_eq!(
        (flow.reply.packets, flow.reply.bytes),
        (4, 4 * 40 + 1001 + 4)
    );
    let events = |event| fw.counters.events(event);
    assert_eq!((events(Event::FromWire), events(Event::ToStack)), (5, 5));
    assert_eq!((events(Event::FromStack), events(Event::ToWire)), (4, 4));
    assert_eq!((events(Event::Redirected), events(Event::Local)), (1, 0));
    assert_eq!(fw.all_drops(), 0);
    // The rules were asked about the SYN and nothing else.
    assert_eq!(fw.view().rule_hits.read(RuleId(0)), (1, 40));
}

#[test]
fn a_redirected_connection_lives_from_syn_to_fin() {
    lives_from_syn_to_fin(None);
}

#[test]
fn a_vlan_tag_stays_on_both_ways() {
    lives_from_syn_to_fin(Some(7));
}

#[test]
fn a_reset_of_either_side_is_carried_and_closes_the_flow() {
    let mut fw = Firewall::new();
    establish(&mut fw, None);
    goes_to_proxy(&mut fw, None, &tcp(&there(), RST, 1001, 0, b""));
    assert_eq!(fw.flow().state, FlowState::Closed);

    let mut fw = Firewall::new();
    establish(&mut fw, None);
    goes_to_client(
        &mut fw,
        None,
        &tcp(&from_proxy(), RST | ACK, 2001, 1001, b""),
    );
    assert_eq!(fw.flow().state, FlowState::Closed);

    // The refusal of a proxy that does not listen.
    let mut fw = Firewall::new();
    goes_to_proxy(&mut fw, None, &syn(CLIENT, SERVER, 1000));
    goes_to_client(&mut fw, None, &tcp(&from_proxy(), RST | ACK, 0, 1001, b""));
    assert_eq!(fw.flow().state, FlowState::Closed);
}

#[test]
fn a_flow_remembers_when_it_was_last_seen() {
    let mut fw = Firewall::new();
    establish(&mut fw, None);
    fw.now_ns += 50 * SECOND;
    goes_to_client(&mut fw, None, &ack(PROXY, CLIENT, b"x"));
    let flow = fw.flow();
    assert_eq!(flow.orig.last_seen_ns, SECOND);
    assert_eq!(flow.reply.last_seen_ns, 51 * SECOND);
    assert_eq!(flow.last_seen_ns(), 51 * SECOND);
}

#[test]
fn ethernet_padding_is_neither_counted_nor_cut() {
    let mut fw = Firewall::new();
    let mut padded = syn(CLIENT, SERVER, 1);
    padded.resize(60, 0);
    let outcome = fw.wire(INTRA, padded);
    assert_eq!(outcome.frame.len(), 60);
    assert_eq!(outcome.to_stack().tuple, tcp_tuple(CLIENT, PROXY));
    assert_eq!(fw.flow().orig.bytes, 40);
}

#[test]
fn a_datagram_is_redirected_like_a_connection() {
    let mut rule = redirect(53, PROXY);
    rule.proto = policy::Test::Is(Protocol::UDP);
    let mut fw = Firewall::with_rules(vec![rule]);
    let dns = wire::Endpoint::new(SERVER.addr, 53);
    let seen = fw
        .wire(INTRA, udp(&udp_tuple(CLIENT, dns), b"?"))
        .to_stack();
    assert_eq!(seen.tuple, udp_tuple(CLIENT, PROXY));
    assert_eq!(fw.flow().state, FlowState::Unreplied);
    let seen = fw
        .stack(INTRA, udp(&udp_tuple(PROXY, CLIENT), b"!"))
        .to_wire(INTRA);
    assert_eq!(seen.tuple, udp_tuple(dns, CLIENT));
    assert_eq!(seen.payload, b"!");
    assert_eq!(fw.flow().state, FlowState::Replied);
}

#[test]
fn two_rules_lead_to_two_proxies_and_each_counts_its_own() {
    let mut fw = Firewall::with_rules(vec![
        redirect_from_port(INTER, 80, PROXY),
        redirect(80, PROXY2),
    ]);
    let seen = fw.wire(INTRA, syn(CLIENT, SERVER, 1)).to_stack();
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY2));
    let seen = fw.wire(INTER, syn(SERVER, wire::Endpoint::new(CLIENT.addr, 80), 1));
    assert_eq!(seen.to_stack().tuple, tcp_tuple(SERVER, PROXY));
    assert_eq!(seen.to_stack().mac_dst, MARKS.to_stack(INTER));
    let hits = |rule| fw.view().rule_hits.read(RuleId(rule));
    assert_eq!((hits(0), hits(1)), ((1, 40), (1, 40)));
}

#[test]
fn the_slow_lane_is_the_wire() {
    let mut fw = Firewall::new();
    let seen = fw.slow(INTRA, syn(CLIENT, SERVER, 1)).to_stack();
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY));
    assert_eq!(seen.mac_dst, MARKS.to_stack(INTRA));
    assert_eq!(seen.mac_src, NEIGHBOUR);
    // The flow is the same by either lane.
    let seen = fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
    assert_eq!(seen.tuple, tcp_tuple(CLIENT, PROXY));
    assert_eq!(fw.flow().orig.packets, 2);
    let events = |event| fw.counters.events(event);
    assert_eq!((events(Event::FromWire), events(Event::FromStack)), (2, 0));
}
