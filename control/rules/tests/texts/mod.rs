//! Random texts of the rule language, made from small pools so that rules and packets meet.

use proptest::prelude::*;
use proptest::sample::select;

pub const CHAINS: [&str; 5] = ["PREROUTING", "first", "second", "third", "fourth"];

fn often(part: impl Strategy<Value = String> + 'static) -> impl Strategy<Value = String> {
    prop_oneof![2 => Just(String::new()), 1 => part]
}

fn tested(
    option: &'static [&'static str],
    values: &'static [&'static str],
) -> impl Strategy<Value = String> {
    (select(option), select(values), 0..5).prop_map(|(option, value, way)| match way {
        0 => format!(" ! {option} {value}"),
        1 => format!(" {option} ! {value}"),
        _ => format!(" {option} {value}"),
    })
}

const NETWORKS: &[&str] = &[
    "10.0.0.1",
    "10.0.0.2",
    "10.0.0.2/31",
    "10/8",
    "192.168.1.7/255.255.255.0",
    "10.9.9.1/255.0.0.255",
    "0/0",
    "192.168.1.1/32",
];
const LISTS: &[&str] = &[
    " -s 10.0.0.1,192.168.1.1",
    " -d 10.0.0.1,10.0.0.2",
    " -d 10.0.0.2,0/0",
];
const INTERFACES: &[&str] = &["eth0", "eth1", "eth+", "dmz0", "none9", "+"];
const PORTS: &[&str] = &["80", "79:81", ":80", "81:", "0", "65535", "8080", ":"];

fn protocol_and_ports() -> impl Strategy<Value = (String, bool)> {
    let with_ports = (
        select(
            &[
                " -p tcp",
                " -p udp",
                " --protocol 6",
                " -p tcp -m tcp",
                " -m udp",
                "",
            ][..],
        ),
        often(tested(&["--sport", "--source-port"], PORTS)),
        tested(&["--dport", "--destination-port"], PORTS),
    );
    prop_oneof![
        4 => with_ports.prop_map(|(p, s, d)| (p.to_owned() + &s + &d, true)),
        1 => select(&["", " -p all", " -p icmp", " ! -p tcp", " -p ! udp", " -p 47"][..]).prop_map(|p| (p.to_owned(), false)),
    ]
}

/// A line `-A chain ...`, with jumps to later chains only.
pub fn rule(chain: usize) -> impl Strategy<Value = String> {
    let addresses = prop_oneof![
        3 => (often(tested(&["-s", "--source"], NETWORKS)), often(tested(&["-d", "--dst"], NETWORKS))).prop_map(|(s, d)| s + &d),
        1 => select(LISTS).prop_map(str::to_owned),
    ];
    let plain = select(&["", " -j ACCEPT", " -j DROP", " -j RETURN"][..]).prop_map(str::to_owned);
    let jump = (chain + 1..=CHAINS.len()).prop_map(|to| {
        CHAINS
            .get(to)
            .map_or_else(String::new, |to| format!(" --jump {to}"))
    });
    let plain = prop_oneof![2 => plain, 3 => jump];
    let on_port = select(&["", " --on-port 0", " --on-port 50080", " --on-port 80"][..]);
    let on_ip = select(
        &[
            "",
            "",
            " --on-ip 10.0.0.1",
            " --on-ip 10.0.0.77",
            " --on-ip 0.0.0.0",
        ][..],
    );
    let tproxy = (on_port, on_ip).prop_map(|(port, ip)| format!(" -j TPROXY{port}{ip}"));
    let comment = select(
        &[
            "",
            "",
            "",
            " -m comment --comment \"it's \\\"so\\\" \\\\\"",
            " -m comment --comment plain",
        ][..],
    );
    let counters = select(&["", "", "[3:180] "][..]);
    let interface = often(tested(&["-i", "--in-interface"], INTERFACES));
    (
        counters,
        addresses,
        interface,
        protocol_and_ports(),
        plain,
        tproxy,
        comment,
    )
        .prop_map(
            move |(counters, addresses, interface, (protocol, ports), plain, tproxy, comment)| {
                let target = if ports && tproxy.len() % 2 == 0 {
                    tproxy
                } else {
                    plain
                };
                format!(
                    "{counters}-A {}{addresses}{interface}{protocol}{comment}{target}",
                    CHAINS[chain]
                )
            },
        )
}

/// A whole text that parses.
pub fn ruleset() -> impl Strategy<Value = String> {
    let rules = proptest::collection::vec((0..CHAINS.len()).prop_flat_map(rule), 0..16);
    (select(&["ACCEPT", "ACCEPT", "DROP"][..]), rules).prop_map(|(policy, rules)| {
        let declared: String = CHAINS[1..]
            .iter()
            .map(|chain| format!(":{chain} - [0:0]\n"))
            .collect();
        let rules: String = rules.iter().map(|rule| format!("{rule}\n")).collect();
        format!("*tproxy\n:PREROUTING {policy} [7:9]\n{declared}# rules\n\n{rules}COMMIT\n")
    })
}
