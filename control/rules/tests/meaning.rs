//! A compiled policy decides as the ruleset reads, and knows beforehand where it can lead.

mod texts;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use policy::{Decision, Endpoints, FirstPacket, PortId, RuleId, Verdict};
use proptest::prelude::*;
use proptest::sample::select;
use rules::{Interface, Match, Rule, Ruleset, Table, Target, Test, compile};
use wire::{Endpoint, Protocol, Tuple};

const ETH0: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const ETH1: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

fn interfaces() -> Vec<Interface> {
    let interface = |name: &str, port, first_address| Interface {
        name: name.to_owned(),
        port: PortId(port),
        first_address,
    };
    vec![
        interface("eth0", 0, Some(ETH0)),
        interface("eth1", 1, Some(ETH1)),
        interface("dmz0", 2, None),
    ]
}

fn packet() -> impl Strategy<Value = FirstPacket> {
    let addr = || {
        let outside = [
            [10, 0, 0, 3],
            [192, 168, 1, 1],
            [8, 8, 8, 8],
            [10, 0, 0, 77],
        ];
        let outside = outside.map(Ipv4Addr::from);
        select(outside.into_iter().chain([ETH0, ETH1]).collect::<Vec<_>>())
    };
    let port = || prop_oneof![3 => 78..=82u16, 1 => select(&[0, 1024, 8080, 50080, 65535][..]), 1 => any::<u16>()];
    let proto =
        prop_oneof![4 => Just(6u8), 2 => Just(17), 1 => Just(1), 1 => Just(47), 1 => any::<u8>()];
    (0..3u8, proto, addr(), port(), addr(), port()).prop_map(
        |(ingress, proto, src, sport, dst, dport)| FirstPacket {
            port: PortId(ingress),
            tuple: Tuple {
                proto: Protocol(proto),
                src: Endpoint::new(src, sport),
                dst: Endpoint::new(dst, dport),
            },
        },
    )
}

/// Reads the ruleset as a person would: chain by chain, rule by rule, calling for a jump.
struct Reader<'a> {
    table: &'a Table,
    interfaces: &'a [Interface],
    packet: FirstPacket,
    hits: Vec<(String, usize)>,
}

impl Reader<'_> {
    fn read(&mut self) -> Decision {
        let policy = self
            .table
            .chains
            .iter()
            .find(|c| c.name == "PREROUTING")
            .and_then(|c| c.policy);
        let verdict = if policy == Some(Verdict::Drop) {
            Decision::Drop
        } else {
            Decision::Unclaimed
        };
        self.chain("PREROUTING").unwrap_or(verdict)
    }

    fn chain(&mut self, name: &str) -> Option<Decision> {
        let chain = self
            .table
            .chains
            .iter()
            .find(|c| c.name == name)
            .expect("parsed jumps lead to chains");
        for (number, rule) in chain.rules.iter().enumerate() {
            if !rule.matches.iter().all(|m| self.holds(m)) {
                continue;
            }
            self.hits.push((name.to_owned(), number));
            match self.target(rule) {
                None => {}
                Some(Target::Return) => return None,
                Some(Target::Accept) => return Some(Decision::Unclaimed),
                Some(Target::Drop) => return Some(Decision::Drop),
                Some(Target::Jump(to)) => {
                    if let Some(decision) = self.chain(&to) {
                        return Some(decision);
                    }
                }
                Some(Target::Tproxy { on_port, on_ip }) => {
                    let wanted = self.packet.tuple.dst;
                    let Some(addr) = on_ip.or(self.ingress().first_address) else {
                        return Some(Decision::NoLocalAddress);
                    };
                    let target = Endpoint::new(addr, on_port.map_or(wanted.port, u16::from));
                    return Some(if target == wanted {
                        Decision::Unclaimed
                    } else {
                        Decision::Redirect(target)
                    });
                }
            }
        }
        None
    }

    fn target(&self, rule: &Rule) -> Option<Target> {
        rule.target.as_ref().map(|target| target.value.clone())
    }

    fn ingress(&self) -> &Interface {
        self.interfaces
            .iter()
            .find(|i| i.port == self.packet.port)
            .expect("packets come in by these")
    }

    fn holds(&self, m: &Match) -> bool {
        let Tuple { proto, src, dst } = self.packet.tuple;
        let within = |n: &policy::Network, addr: Ipv4Addr| {
            let pairs = addr
                .octets()
                .into_iter()
                .zip(n.addr().octets())
                .zip(n.mask().octets());
            pairs.into_iter().all(|((a, n), mask)| (a ^ n) & mask == 0)
        };
        let is = match &m.test {
            Test::Source(network) => within(network, src.addr),
            Test::Destination(network) => within(network, dst.addr),
            Test::InInterface(pattern) if pattern.prefix => {
                self.ingress().name.starts_with(&pattern.name)
            }
            Test::InInterface(pattern) => self.ingress().name == pattern.name,
            Test::Protocol(wanted) => proto == *wanted,
            Test::SourcePorts(range) => (range.first()..=range.last()).contains(&src.port),
            Test::DestinationPorts(range) => (range.first()..=range.last()).contains(&dst.port),
            Test::Comment(_) => true,
        };
        is != m.negated
    }
}

fn lies_in(list: &[Endpoints], proto: Protocol, end: Endpoint) -> bool {
    list.iter().any(|e| {
        (e.proto == Protocol(0) || e.proto == proto)
            && e.addr == end.addr
            && e.ports.contains(&end.port)
    })
}

/// The parsed ruleset and its policy.
fn compiled(text: &str) -> (Ruleset, policy::Policy) {
    let (ruleset, _) =
        Ruleset::parse("rules.conf", text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let policy = compile(&ruleset, &interfaces(), 7).unwrap();
    (ruleset, policy)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn decisions_are_those_of_a_plain_reading(text in texts::ruleset(), packets in prop::collection::vec(packet(), 40)) {
        let (ruleset, policy) = compiled(&text);
        let table = &ruleset.tables[0];
        let starts: BTreeMap<&str, usize> = table.chains.iter().scan(0, |next, chain| {
            let start = *next;
            *next += chain.rules.len();
            Some((chain.name.as_str(), start))
        }).collect();
        prop_assert_eq!(policy.rule_count(), table.chains.iter().map(|c| c.rules.len()).sum::<usize>());
        let proxies = policy.proxies();
        for packet in packets {
            let mut reader = Reader { table, interfaces: &interfaces(), packet, hits: Vec::new() };
            let expected = reader.read();
            let mut hits = Vec::new();
            let decision = policy.decide(&packet, |RuleId(id)| hits.push(id as usize));
            prop_assert_eq!(decision, expected, "{:?}\n{}", packet, text);
            let expected: Vec<usize> = reader.hits.iter().map(|(chain, number)| starts[chain.as_str()] + number).collect();
            prop_assert_eq!(hits, expected, "{:?}\n{}", packet, text);
            if let Decision::Redirect(target) = decision {
                prop_assert!(lies_in(&proxies, packet.tuple.proto, target), "{target} is not in {proxies:?}\n{text}");
            }
        }
    }

    #[test]
    fn whatever_is_claimed_on_an_own_address_was_announced(text in texts::ruleset(), packets in prop::collection::vec(packet(), 60)) {
        let (_, policy) = compiled(&text);
        let own = [ETH0, ETH1, Ipv4Addr::new(192, 168, 1, 1)];
        let concerns = policy.concerns(&own);
        for packet in packets.into_iter().filter(|packet| own.contains(&packet.tuple.dst.addr)) {
            let decision = policy.decide(&packet, |_| {});
            let announced = lies_in(&concerns, packet.tuple.proto, packet.tuple.dst);
            prop_assert!(decision == Decision::Unclaimed || announced, "{packet:?}: {decision:?} is not in {concerns:?}\n{text}");
        }
    }

    /// Exactness: where no rule asks for a source, each announced endpoint is one that some packet has claimed.
    #[test]
    fn nothing_is_announced_that_no_packet_can_bring_about(text in texts::ruleset()) {
        let text: String = text.lines().filter(|l| !["-s ", "--source", "--sport"].iter().any(|s| l.contains(s))).map(|l| format!("{l}\n")).collect();
        let (_, policy) = compiled(&text);
        for claimed in policy.concerns(&[ETH0]).iter().filter(|e| e.proto != Protocol(0)) {
            for port in [*claimed.ports.start(), *claimed.ports.end()] {
                let any = (0..3).any(|ingress| {
                    let end = |addr, port| Endpoint::new(addr, port);
                    let tuple = Tuple { proto: claimed.proto, src: end(Ipv4Addr::new(8, 8, 8, 8), 4000), dst: end(ETH0, port) };
                    policy.decide(&FirstPacket { port: PortId(ingress), tuple }, |_| {}) != Decision::Unclaimed
                });
                prop_assert!(any, "{:?} port {} is never claimed\n{}", claimed, port, text);
            }
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
    let policy = compile(&ruleset, &zones, 3).unwrap();
    assert_eq!(rules::unmatched_interfaces(&ruleset, &zones), []);
    let ask = |port, proto, dst: [u8; 4], dport| {
        let src = Endpoint::new(Ipv4Addr::new(192, 168, 1, 50), 40000);
        let tuple = Tuple {
            proto,
            src,
            dst: Endpoint::new(dst.into(), dport),
        };
        policy.decide(
            &FirstPacket {
                port: PortId(port),
                tuple,
            },
            |_| {},
        )
    };
    let proxy = |port| Decision::Redirect(Endpoint::new(Ipv4Addr::new(192, 168, 1, 1), port));
    assert_eq!(ask(0, Protocol::TCP, [203, 0, 113, 5], 80), proxy(50080));
    assert_eq!(ask(0, Protocol::TCP, [203, 0, 113, 5], 21), proxy(50021));
    assert_eq!(
        ask(0, Protocol::TCP, [203, 0, 113, 5], 443),
        Decision::Unclaimed
    );
    assert_eq!(
        ask(0, Protocol::UDP, [203, 0, 113, 5], 80),
        Decision::Unclaimed
    );
    assert_eq!(
        ask(0, Protocol::TCP, [192, 168, 1, 1], 80),
        Decision::Unclaimed
    );
    assert_eq!(
        ask(1, Protocol::TCP, [203, 0, 113, 5], 80),
        Decision::Unclaimed
    );
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
    let from = |port| {
        policy.decide(
            &FirstPacket {
                port: PortId(port),
                tuple,
            },
            |_| {},
        )
    };
    assert_eq!(
        (from(2), from(200)),
        (Decision::NoLocalAddress, Decision::NoLocalAddress)
    );
    assert_eq!(from(1), Decision::Redirect(Endpoint::new(ETH1, 50080)));
}

#[test]
fn without_a_tproxy_table_nothing_is_claimed() {
    let (ruleset, _) = Ruleset::parse("rules.conf", "").unwrap();
    let policy = compile(&ruleset, &interfaces(), 9).unwrap();
    assert_eq!(
        (
            policy.generation(),
            policy.rule_count(),
            policy.proxies().len(),
            policy.concerns(&[ETH0]).len()
        ),
        (9, 0, 0, 0)
    );
}
