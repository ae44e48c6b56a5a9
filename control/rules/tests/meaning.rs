//! A compiled policy decides as the ruleset reads, and knows beforehand where it can lead.

mod reading;
mod texts;
mod world;

use std::net::Ipv4Addr;

use policy::{Arrival, ConnState, Endpoints, Packet, Policy, PortId, RuleId, Sink};
use proptest::prelude::*;
use proptest::sample::select;
use reading::Reader;
use rules::{Interface, Ruleset};
use wire::{Endpoint, Protocol, Tuple};
use world::{ETH0, ETH1};

fn packet() -> impl Strategy<Value = Packet> {
    let addr = || {
        let outside = [
            [10, 0, 0, 3],
            [192, 168, 1, 1],
            [192, 168, 7, 7],
            [8, 8, 8, 8],
            [10, 0, 0, 77],
        ];
        let outside = outside.map(Ipv4Addr::from);
        select(outside.into_iter().chain([ETH0, ETH1]).collect::<Vec<_>>())
    };
    let port = || prop_oneof![3 => 78..=82u16, 1 => select(&[0, 22, 1024, 8080, 50080, 65535][..]), 1 => any::<u16>()];
    let proto =
        prop_oneof![4 => Just(6u8), 2 => Just(17), 2 => Just(1), 1 => Just(47), 1 => any::<u8>()];
    let states = [
        ConnState::New,
        ConnState::New,
        ConnState::Established,
        ConnState::Related,
        ConnState::Invalid,
        ConnState::Untracked,
    ];
    let tuple = (proto, addr(), port(), addr(), port());
    let ports = (0..4u8, 0..4u8);
    let icmp = select(&[(8, 0), (0, 0), (3, 3), (3, 4), (11, 0)][..]);
    let flags = select(&[0x02u8, 0x12, 0x10, 0x04, 0x3f, 0, 0x29][..]);
    let truths = any::<[bool; 5]>();
    let rest = (
        select(states.to_vec()),
        icmp,
        flags,
        truths,
        0..4u32,
        any::<u8>(),
    );
    (tuple, ports, rest).prop_map(
        |(
            (proto, src, sport, dst, dport),
            (comes, leaves),
            (state, icmp, flags, truths, mark, owners),
        )| {
            let [is_tproxy, is_snat, is_dnat, is_tail, has_mac] = truths;
            let is_tail = is_tail && mark == 0;
            let proto = Protocol(proto);
            let has_ports = !is_tail && matches!(proto, Protocol::TCP | Protocol::UDP);
            let ports = if has_ports { (sport, dport) } else { (0, 0) };
            let tuple = Tuple {
                proto,
                src: Endpoint::new(src, ports.0),
                dst: Endpoint::new(dst, ports.1),
            };
            Packet {
                out_port: (leaves < 3).then_some(PortId(leaves)),
                icmp: (proto == Protocol::ICMP && !is_tail).then_some(icmp),
                tcp_flags: (proto == Protocol::TCP && !is_tail).then_some(flags),
                is_tail,
                source_mac: Some([2, 0, 0, 0, 0, u8::from(has_mac)]),
                state,
                is_tproxy,
                is_snat,
                is_dnat,
                mark,
                owners,
                bytes: 60,
                // Limits have a test of their own.
                is_rejudged: true,
                ..Packet::first(PortId(comes.min(2)), tuple)
            }
        },
    )
}

#[derive(Default)]
struct Heard {
    matched: Vec<u32>,
    logged: Vec<u32>,
}

impl Sink for Heard {
    fn matched(&mut self, rule: RuleId, _: &Packet) {
        self.matched.push(rule.0);
    }

    fn log(&mut self, rule: RuleId, _: &Packet) {
        self.logged.push(rule.0);
    }
}

fn arrives(policy: &Policy, packet: &Packet) -> Arrival {
    policy.arrive(&mut packet.clone(), false, &mut ())
}

fn lies_in(list: &[Endpoints], proto: Protocol, end: Endpoint) -> bool {
    list.iter().any(|e| {
        (e.proto == Protocol(0) || e.proto == proto)
            && e.addr == end.addr
            && e.ports.contains(&end.port)
    })
}

/// The parsed ruleset and its policy.
fn compiled(text: &str) -> (Ruleset, Policy) {
    let (ruleset, _) =
        Ruleset::parse("rules.conf", text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let compiled = world::compile(&ruleset).unwrap_or_else(|error| panic!("{error}\n{text}"));
    (ruleset, compiled.policy)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn decisions_are_those_of_a_plain_reading(text in texts::ruleset(texts::Style::Ours), packets in prop::collection::vec((packet(), any::<bool>()), 30)) {
        let (ruleset, policy) = compiled(&text);
        let policies = ruleset.chains().filter(|chain| chain.policy.is_some()).count();
        prop_assert_eq!(policy.rule_count(), ruleset.rule_count() + policies);
        let proxies = policy.proxies();
        let (zones, interfaces) = (world::zones(), world::interfaces());
        for (packet, is_taken) in packets {
            let from_box = Packet { in_port: None, source_mac: None, ..packet };
            for way in ["arrive", "input", "forward", "leave"] {
                let packet = if way == "leave" { from_box } else { packet };
                let mut reader = Reader::new(&ruleset, &interfaces, &zones, policy.owners(), packet);
                let mut heard = Heard::default();
                let mut asked = packet;
                let (answer, expected) = match way {
                    "arrive" => (Ok(policy.arrive(&mut asked, is_taken, &mut heard)), Ok(reader.arrive(is_taken))),
                    "input" => (Err(policy.input(&mut asked, &mut heard)), Err(reader.input())),
                    "forward" => (Err(policy.forward(&mut asked, &mut heard)), Err(reader.forward())),
                    _ => (Err(policy.leave(&mut asked, &mut heard)), Err(reader.leave())),
                };
                prop_assert_eq!(answer, expected, "{} {:?}\n{}", way, packet, text);
                prop_assert_eq!(&heard.matched, &reader.matched, "{} {:?}\n{}", way, packet, text);
                prop_assert_eq!(&heard.logged, &reader.logged, "{} {:?}\n{}", way, packet, text);
                prop_assert_eq!(asked, reader.packet, "{}\n{}", way, text);
                if let Ok(Arrival::Redirect { to, .. }) = answer {
                    prop_assert!(lies_in(&proxies, packet.tuple.proto, to), "{to} is not in {proxies:?}\n{text}");
                }
            }
        }
    }

    #[test]
    fn whatever_is_claimed_on_an_own_address_was_announced(text in texts::tproxy(), packets in prop::collection::vec(packet(), 60)) {
        let (_, policy) = compiled(&text);
        let own = [ETH0, ETH1, Ipv4Addr::new(192, 168, 1, 1)];
        let concerns = policy.concerns(&own);
        for packet in packets.into_iter().filter(|packet| own.contains(&packet.tuple.dst.addr) && !packet.is_tail) {
            let arrival = arrives(&policy, &packet);
            let announced = lies_in(&concerns, packet.tuple.proto, packet.tuple.dst);
            prop_assert!(arrival == Arrival::Goes || announced, "{packet:?}: {arrival:?} is not in {concerns:?}\n{text}");
        }
    }
}

fn shown(list: &[Endpoints]) -> Vec<String> {
    list.iter()
        .map(|e| {
            format!(
                "{} {} {}-{}",
                e.addr,
                e.proto,
                e.ports.start(),
                e.ports.end()
            )
        })
        .collect()
}

/// What the rules say about the two own addresses, and the proxies they name.
fn outlook(rules: &str) -> (Vec<String>, Vec<String>) {
    let (_, policy) = compiled(&format!("*tproxy\n:a - [0:0]\n{rules}\nCOMMIT\n"));
    (
        shown(&policy.concerns(&[ETH0, ETH1])),
        shown(&policy.proxies()),
    )
}

#[test]
fn a_redirect_that_spares_the_own_address_concerns_nothing_there() {
    let (concerns, proxies) = outlook(
        "-A PREROUTING -i eth0 -d ! 10.0.0.0/30 -j a\n-A a -p tcp --dport 80 -j TPROXY --on-port 50080",
    );
    assert_eq!(concerns, [""; 0]);
    assert_eq!(proxies, ["10.0.0.1 tcp 50080-50080"]);
}

#[test]
fn a_redirect_of_any_destination_concerns_its_port_on_every_own_address() {
    let (concerns, proxies) =
        outlook("-A PREROUTING -i eth+ -p tcp --dport 80 -j TPROXY --on-port 50080");
    assert_eq!(concerns, ["10.0.0.1 tcp 80-80", "10.0.0.2 tcp 80-80"]);
    assert_eq!(
        proxies,
        ["10.0.0.1 tcp 50080-50080", "10.0.0.2 tcp 50080-50080"]
    );
}

#[test]
fn a_kept_port_names_the_ports_of_the_rule_as_the_proxys() {
    let (_, proxies) = outlook(
        "-A PREROUTING -i eth1 -p udp ! --dport 100:200 -j TPROXY\n-A PREROUTING -p tcp --dport 1:9 -j TPROXY --on-ip 10.0.0.9",
    );
    assert_eq!(
        proxies,
        [
            "10.0.0.2 udp 0-99",
            "10.0.0.2 udp 201-65535",
            "10.0.0.9 tcp 1-9"
        ]
    );
}

#[test]
fn a_redirect_to_the_packets_own_destination_concerns_nothing() {
    let (concerns, _) = outlook("-A PREROUTING -p tcp --dport 80 -j TPROXY --on-ip 10.0.0.1");
    assert_eq!(concerns, ["10.0.0.2 tcp 80-80"]);
}

#[test]
fn an_accept_before_a_drop_keeps_its_port_out() {
    let (concerns, _) = outlook(
        "-A PREROUTING -p tcp --dport 22 -j ACCEPT\n-A PREROUTING -p tcp -d 10.0.0.1 -j DROP",
    );
    assert_eq!(concerns, ["10.0.0.1 tcp 0-21", "10.0.0.1 tcp 23-65535"]);
}

#[test]
fn a_drop_of_everything_is_every_protocol() {
    let (concerns, _) = outlook("-A PREROUTING -d 10.0.0.2 -j DROP");
    assert_eq!(concerns, ["10.0.0.2 0 0-65535"]);
}

#[test]
fn a_list_too_long_for_steering_becomes_a_wider_one() {
    let one_by_one: String = (0..40)
        .map(|n| {
            format!(
                "-A PREROUTING -d 10.0.0.1 -p tcp --dport {} -j DROP\n",
                n * n + 1
            )
        })
        .collect();
    let (concerns, _) = outlook(&one_by_one);
    assert!(concerns.len() <= 16, "{concerns:?}");
    let (concerns, _) =
        outlook("-A PREROUTING -p tcp -j ACCEPT\n-A PREROUTING -d 10.0.0.1 -j DROP");
    assert_eq!(concerns, ["10.0.0.1 0 0-65535"]);
}

#[test]
fn the_three_zones_redirect_from_inside_and_leave_the_box_alone() {
    let (ruleset, _) = Ruleset::parse(
        "three-zones.conf",
        include_str!("fixtures/three-zones.conf"),
    )
    .unwrap();
    let zone = |(name, port, addr): (&str, u8, [u8; 4])| Interface {
        name: name.to_owned(),
        port: PortId(port),
        first_address: Some(addr.into()),
    };
    let zones = [
        ("eth1", 0, [192, 168, 1, 1]),
        ("eth2", 1, [198, 51, 100, 1]),
        ("eth3", 2, [10, 0, 0, 1]),
    ]
    .map(zone);
    let policy = world::compile_with(&ruleset, &zones).unwrap().policy;
    assert_eq!(rules::unmatched_interfaces(&ruleset, &zones), []);
    let ask = |port, proto, dst: [u8; 4], dport| {
        let src = Endpoint::new(Ipv4Addr::new(192, 168, 1, 50), 40000);
        let tuple = Tuple {
            proto,
            src,
            dst: Endpoint::new(dst.into(), dport),
        };
        arrives(&policy, &Packet::first(PortId(port), tuple))
    };
    let proxy = |port| Arrival::Redirect {
        to: Endpoint::new(Ipv4Addr::new(192, 168, 1, 1), port),
        otherwise: policy::NoListener::Reject,
    };
    assert_eq!(ask(0, Protocol::TCP, [203, 0, 113, 5], 80), proxy(50080));
    assert_eq!(ask(0, Protocol::TCP, [203, 0, 113, 5], 21), proxy(50021));
    assert_eq!(ask(0, Protocol::TCP, [203, 0, 113, 5], 443), Arrival::Goes);
    assert_eq!(ask(0, Protocol::UDP, [203, 0, 113, 5], 80), Arrival::Goes);
    assert_eq!(ask(0, Protocol::TCP, [192, 168, 1, 1], 80), Arrival::Goes);
    assert_eq!(ask(1, Protocol::TCP, [203, 0, 113, 5], 80), Arrival::Goes);
    let own: Vec<Ipv4Addr> = zones.iter().filter_map(|z| z.first_address).collect();
    // From inside, the box's other addresses are "not 192.168.1.1", so the text does redirect them.
    assert_eq!(
        shown(&policy.concerns(&own)),
        [
            "198.51.100.1 tcp 21-21",
            "198.51.100.1 tcp 80-80",
            "10.0.0.1 tcp 21-21",
            "10.0.0.1 tcp 80-80"
        ]
    );
    assert_eq!(
        shown(&policy.proxies()),
        ["192.168.1.1 tcp 50021-50021", "192.168.1.1 tcp 50080-50080"]
    );
}

#[test]
fn an_interface_without_an_address_has_nowhere_to_redirect_to() {
    let (_, policy) =
        compiled("*tproxy\n-A PREROUTING -p tcp --dport 80 -j TPROXY --on-port 50080\nCOMMIT\n");
    let dst = Endpoint::new(Ipv4Addr::new(8, 8, 8, 8), 80);
    let tuple = Tuple {
        proto: Protocol::TCP,
        src: Endpoint::new(ETH1, 1),
        dst,
    };
    let from = |port| arrives(&policy, &Packet::first(PortId(port), tuple));
    assert_eq!(
        (from(2), from(200)),
        (Arrival::NoLocalAddress, Arrival::NoLocalAddress)
    );
    assert_eq!(
        from(1),
        Arrival::Redirect {
            to: Endpoint::new(ETH1, 50080),
            otherwise: policy::NoListener::Reject
        }
    );
}

#[test]
fn without_a_tproxy_table_nothing_is_claimed() {
    let (ruleset, _) = Ruleset::parse("rules.conf", "").unwrap();
    let policy = world::compile(&ruleset).unwrap().policy;
    assert_eq!(
        (
            policy.generation(),
            policy.rule_count(),
            policy.proxies().len(),
            policy.concerns(&[ETH0]).len()
        ),
        (7, 0, 0, 0)
    );
}
