//! Every mistake is answered by one line that names its place and what would be right.

mod world;

use std::fmt::Write as _;

use policy::PortId;
use rules::{Interface, Ruleset, unmatched_interfaces};

/// The texts stand in the snapshot itself; the expression would only repeat them.
macro_rules! snapshot {
    ($answers:expr) => {
        insta::with_settings!({ omit_expression => true }, { insta::assert_snapshot!($answers) })
    };
}

/// Each text and what is said about it.
fn answers<'a>(texts: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let mut shown = String::new();
    for (title, text) in texts {
        let answer = match Ruleset::parse("rules.conf", &text) {
            Err(error) => error.to_string(),
            Ok((_, warnings)) => {
                assert!(!warnings.is_empty(), "accepted without a word: {text}");
                warnings
                    .iter()
                    .map(|w| format!("warning: {w}"))
                    .collect::<Vec<_>>()
                    .join("\n")
            }
        };
        assert!(
            !answer.contains(|c: char| c.is_control()),
            "more than a line: {answer:?}"
        );
        writeln!(shown, "{}\n    {answer}", title.escape_debug()).unwrap();
    }
    shown
}

/// Rules that stand in line 4, after `PREROUTING` and a chain `web`.
fn rules(lines: &[&'static str]) -> String {
    let text =
        |line: &str| format!("*tproxy\n:PREROUTING ACCEPT [0:0]\n:web - [0:0]\n{line}\nCOMMIT\n");
    answers(lines.iter().map(|line| (*line, text(line))))
}

#[test]
fn in_the_frame_of_a_text() {
    let texts = [
        "*tproxi\nCOMMIT\n",
        "*security\n:INPUT ACCEPT [0:0]\nCOMMIT\n",
        "*fliter\nCOMMIT\n",
        "*bananas\nCOMMIT\n",
        "*\nCOMMIT\n",
        "*tproxy extra\nCOMMIT\n",
        "*tproxy\n:PREROUTING ACCEPT [0:0]\n",
        "*tproxy\n*tproxy\nCOMMIT\n",
        "*tproxy\nCOMMIT\n*tproxy\nCOMMIT\n",
        "*tproxy\nCOMMIT now\n",
        "*tproxy\nCOMMIT\n-A PREROUTING -j DROP\n",
        "COMMIT\n",
        "tproxy\nCOMMIT\n",
        "*tproxy\nCOMIT\n",
        "*tproxy\n-I PREROUTING -j DROP\nCOMMIT\n",
        "*tproxy\nPREROUTING -j DROP\nCOMMIT\n",
        "*tproxy\n-A\nCOMMIT\n",
        "*tproxy\n[0:x] -A PREROUTING -j DROP\nCOMMIT\n",
        "*tproxy\n[1:2] PREROUTING -j DROP\nCOMMIT\n",
        "*tproxy\n-A PREROUTING -m comment --comment \"open\nCOMMIT\n",
    ];
    snapshot!(answers(texts.map(|text| (text, text.to_owned()))));
}

#[test]
fn in_chains() {
    let deep: String = (0..70).map(|n| format!(":c{n} - [0:0]\n")).collect();
    let deeper: String = (0..69)
        .map(|n| format!("-A c{n} -j c{}\n", n + 1))
        .collect();
    let wide: String = (0..40).map(|n| format!(":c{n} - [0:0]\n")).collect();
    let wider: String = (0..39)
        .map(|n| format!("-A c{n} -j c{0}\n-A c{n} -j c{0}\n", n + 1))
        .collect();
    let generated = [
        (
            "seventy chains, one below the other",
            format!("*tproxy\n{deep}{deeper}COMMIT\n"),
        ),
        (
            "forty chains, each calling the next twice",
            format!("*tproxy\n{wide}{wider}-A PREROUTING -j c0\nCOMMIT\n"),
        ),
    ];
    let texts = [
        ":PREROUTING ACEPT [0:0]",
        ":PREROUTING - [0:0]",
        ":PREROUTING",
        ":PREROUTING ACCEPT [0]",
        ":PREROUTING ACCEPT [0:0] more",
        "-A INPUT -j ACCEPT",
        ":INPUT ACCEPT [0:0]",
        ":web DROP [0:0]",
        ":TPROXY - [0:0]",
        ":-web - [0:0]",
        ": - [0:0]",
        ":a-name-that-goes-on-for-too-long - [0:0]",
        ":web - [0:0]\n:web - [0:0]",
        ":PREROUTING ACCEPT [0:0]\n:PREROUTING ACCEPT [0:0]",
        ":web - [0:0]\n-A wbe -j DROP",
        "-A later -j DROP\n:later - [0:0]",
        ":web - [0:0]\n-A PREROUTING -j wed",
        "-A PREROUTING -j DORP",
        "-A PREROUTING -j elsewhere",
        "-A PREROUTING -j OUTPUT",
        ":a - [0:0]\n:b - [0:0]\n:c - [0:0]\n-A a -j b\n-A b -j c\n-A c -p tcp -j b",
        ":a - [0:0]\n-A a -j a",
    ];
    let texts = texts.map(|text| (text, format!("*tproxy\n{text}\nCOMMIT\n")));
    snapshot!(answers(texts.into_iter().chain(generated)));
}

#[test]
fn in_options() {
    snapshot!(rules(&[
        "-A PREROUTING --dprot 80",
        "-A PREROUTING --dport=80",
        "-A PREROUTING --zzzzzz 1",
        "-A PREROUTING -o eth1",
        "-A OUTPUT -i eth1",
        "-A PREROUTING -g DROP",
        "-A PREROUTING -c 1 x",
        "-A PREROUTING -6",
        "-A PREROUTING -p icmp --syn",
        "-A PREROUTING -p tcp --syn --tcp-flags SYN SYN",
        "-A PREROUTING -A web",
        "-A PREROUTING 1.2.3.4",
        "-A PREROUTING -j DROP # gone",
        "-A PREROUTING -p",
        "-A PREROUTING -d -j DROP",
        "-A PREROUTING -d !",
        "-A PREROUTING !",
        "-A PREROUTING ! ! -d 1.2.3.4",
        "-A PREROUTING ! -d ! 1.2.3.4",
        "-A PREROUTING ! -j DROP",
        "-A PREROUTING ! -p all",
        "-A PREROUTING -s 1.2.3.4 -j DROP --src 1.2.3.5",
        "-A PREROUTING -j DROP -j ACCEPT",
        "-A PREROUTING --state NEW",
        "-A PREROUTING -m socket",
        "-A PREROUTING -m addrtype --dst-type LOCAL",
        "-A PREROUTING -m addrtype ! --dst-type LOCAL -j DROP",
        "-A PREROUTING -m addrtype --src-type LOCAL",
        "-A PREROUTING -m addrtype --dst-type MULTICAST",
        "-A PREROUTING -m addrtype ! --dst-type MULTICAST",
        "-A PREROUTING -m addrtype --dst-type BROADCAST",
        "-A PREROUTING -m addrtype --dst-type UNICAST",
        "-A PREROUTING -m addrtype --dst-type ANYCAST",
        "-A PREROUTING -m addrtype --dst-type LOCAL,BROADCAST",
        "-A PREROUTING -m addrtype",
        "-A PREROUTING -m connlimit --connlimit-above 3",
        "-A PREROUTING --connlimit-above 3",
        "-A PREROUTING --on-port 80 -p tcp -j TPROXY",
        "-A PREROUTING -j DROP --on-port 80",
        "-A PREROUTING -j web --on-port 80",
        "-A PREROUTING -m tpc",
        "-A PREROUTING -m comment",
        "-A PREROUTING -p tcp -m udp --dport 80",
        "-A PREROUTING -m tcp -m udp",
        "-A PREROUTING -p icmp --dport 80",
        "-A PREROUTING ! -p tcp --dport 80",
        "-A PREROUTING -p all --dport 80",
        "-A PREROUTING --dport 80 -j TPROXY",
        "-A PREROUTING -m udp --dport 53 -j DROP",
    ]));
}

#[test]
fn in_values() {
    snapshot!(rules(&[
        "-A PREROUTING -s 192.168.1",
        "-A PREROUTING -s 192.168.1.256",
        "-A PREROUTING -s 010.1.1.1",
        "-A PREROUTING -s www.example.org",
        "-A PREROUTING -s 2001:db8::1",
        "-A PREROUTING -s 10.0.0.1,10.0.0.x",
        "-A PREROUTING -s 10.0.0.1,",
        "-A PREROUTING -d ! 10.0.0.1,10.0.0.2",
        "-A PREROUTING -s 10.0.0.0/33",
        "-A PREROUTING -s 10.0.0.0/255.255",
        "-A PREROUTING -i \"\"",
        "-A PREROUTING -i averylonginterface",
        "-A PREROUTING -i eth0/1",
        "-A PREROUTING -p tpc",
        "-A PREROUTING -p 256",
        "-A PREROUTING -p mptcp",
        "-A PREROUTING -p hipp",
        "-A PREROUTING -p gre --dport 1",
        "-A PREROUTING -p \u{1b}[2J",
        "-A PREROUTING -p tcp --dport htpp",
        "-A PREROUTING -p tcp --dport 65536",
        "-A PREROUTING -p tcp --dport 80,443",
        "-A PREROUTING -p tcp --dport 8000-8080",
        "-A PREROUTING -p tcp --dport 90:80",
        "-A PREROUTING -p tcp --dport 80:hhttp",
    ]));
}

#[test]
fn in_targets() {
    snapshot!(rules(&[
        "-A PREROUTING -j DNAT --to-destination 10.0.0.1",
        "-A PREROUTING -j REJECT",
        "-A PREROUTING -j MARK --set-mark 1",
        "-A PREROUTING -j NFQUEUE",
        "-A PREROUTING -p tcp -j TPROXY --on-no-listener rejct",
        "-A PREROUTING -j tproxy",
        "-A PREROUTING -j TPROXY --on-port 80",
        "-A PREROUTING -p icmp -j TPROXY",
        "-A PREROUTING ! -p tcp -j TPROXY",
        "-A PREROUTING -p tcp -j DROP --on-port 80",
        "-A PREROUTING -p tcp --on-ip 10.0.0.1",
        "-A PREROUTING -p tcp -j TPROXY --on-port 80:90",
        "-A PREROUTING -p tcp -j TPROXY --on-port proxy",
        "-A PREROUTING -p tcp -j TPROXY --on-ip 127.0.0.1",
        "-A PREROUTING -p tcp -j TPROXY --on-ip 224.0.0.1",
        "-A PREROUTING -p tcp -j TPROXY --on-ip 10.0.0.0/8",
        "-A PREROUTING -p tcp -j TPROXY --tproxy-mark 0x1/0x1",
        "-A web -p tcp -j TPROXY --on-ip 127.0.0.1\n-A PREROUTING -j web",
    ]));
}

#[test]
fn lists_that_would_make_too_many_rules_are_refused() {
    let list = vec!["10.0.0.1"; 100].join(",");
    let text = format!("*tproxy\n-A PREROUTING -s {list} -d {list} -j DROP\nCOMMIT\n");
    let error = Ruleset::parse("rules.conf", &text).unwrap_err().to_string();
    assert_eq!(
        error,
        "rules.conf:2:1: the lists of addresses make more than 4096 rules; use networks or a set"
    );
}

#[test]
fn interfaces_that_no_port_has_are_warned_of() {
    let text = "*tproxy\n-A PREROUTING -i eth0\n-A PREROUTING -i eht0\n-A PREROUTING ! -i dmz+\n-A PREROUTING -i eth+\nCOMMIT\n";
    let (ruleset, _) = Ruleset::parse("rules.conf", text).unwrap();
    let eth0 = Interface {
        name: "eth0".to_owned(),
        port: PortId(0),
        first_address: None,
    };
    let warnings: Vec<String> = unmatched_interfaces(&ruleset, &[eth0])
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        warnings,
        [
            "rules.conf:3:15: `eht0` names no configured port, so this test never holds",
            "rules.conf:4:17: `dmz+` names no configured port, so this test always holds",
        ]
    );
}

/// Rules of a table, after its built-in chains and a chain `web`.
fn rules_of(table: &str, lines: &[&'static str]) -> String {
    let text = |line: &str| format!("*{table}\n:web - [0:0]\n\n{line}\nCOMMIT\n");
    answers(lines.iter().map(|line| (*line, text(line))))
}

#[test]
fn in_matches() {
    snapshot!(rules_of(
        "filter",
        &[
            "-A INPUT --dport 80",
            "-A INPUT -m tcp",
            "-A INPUT -m multiport --dports 80",
            "-A INPUT -p tcp -m multiport",
            "-A INPUT -p tcp -m multiport --dports 80 --sports 80",
            "-A INPUT -p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15:16",
            "-A INPUT -p icmp -m multiport --dports 80",
            "-A INPUT -p icmp --icmp-type echo-requst",
            "-A INPUT -p icmp --icmp-type 300",
            "-A INPUT -p tcp --icmp-type 8",
            "-A INPUT -p tcp --tcp-flags SYN",
            "-A INPUT -p tcp --tcp-flags SIN SYN",
            "-A INPUT -p tcp --tcp-flags SYN ACK",
            "-A INPUT -m iprange",
            "-A INPUT -m iprange --src-range 10.0.0.9-10.0.0.1",
            "-A INPUT -m state --state ESTABLISHD",
            "-A INPUT -m state --state SNAT",
            "-A INPUT -m conntrack --ctproto tcp",
            "-A INPUT -m mark --mark red",
            "-A INPUT -m limit --limit 3/week",
            "-A INPUT -m limit --limit 20000/sec",
            "-A INPUT -m limit ! --limit 5/sec",
            "-A INPUT -m limit --limit-burst 0",
            "-A INPUT -m hashlimit --hashlimit-name x",
            "-A INPUT -m hashlimit --hashlimit-upto 5/sec",
            "-A INPUT -m hashlimit --hashlimit-upto 5kb/s --hashlimit-name x",
            "-A INPUT -m hashlimit --hashlimit-upto 5/sec --hashlimit-name x --hashlimit-mode srcipp",
            "-A INPUT -m hashlimit --hashlimit-upto 5/sec --hashlimit-name x --hashlimit-srcmask 33",
            "-A INPUT -m hashlimit --hashlimit-upto 5/sec --hashlimit-above 5/sec --hashlimit-name x",
            "-A INPUT -m set --match-set web",
            "-A INPUT -m set --match-set web sorce",
            "-A INPUT -m mac --mac-source 0:1:2:3:4:5",
            "-A OUTPUT -m mac --mac-source 02:00:00:00:00:01",
            "-A web -m mac --mac-source 02:00:00:00:00:01\n-A OUTPUT -j web",
            "-A INPUT -m owner --uid-owner 0",
            "-A OUTPUT -m owner --uid-owner 5-3",
            "-A OUTPUT -m owner --gid-owner 5",
            "-A web -m owner --uid-owner 0\n-A INPUT -j web",
            "-A INPUT -m zone --src 10.0.0.1 --src 10.0.0.2",
            "-A INPUT -m zone",
            "-A INPUT -m tproxxy",
        ]
    ));
}

#[test]
fn in_targets_of_other_tables() {
    let mut shown = rules_of(
        "filter",
        &[
            "-A INPUT -j REJECT --reject-with icmp-port-unreachabel",
            "-A INPUT -j REJECT --reject-with tcp-reset",
            "-A INPUT -j LOG --log-level loud",
            "-A INPUT -j LOG --log-prefix \"a\u{7}b\"",
            "-A INPUT -j MASQUERADE",
            "-A INPUT -p tcp -j TPROXY",
        ],
    );
    let long = format!(
        "*filter\n-A INPUT -j LOG --log-prefix {}\nCOMMIT\n",
        "x".repeat(128)
    );
    shown += &answers([("a prefix of 128 bytes", long)]);
    shown += &rules_of(
        "nat",
        &[
            ":INPUT DROP [0:0]",
            "-A PREROUTING -j DROP",
            "-A PREROUTING -j DNAT",
            "-A PREROUTING -j DNAT --to-destination 10.0.0.1:80",
            "-A PREROUTING -p tcp -j DNAT --to-destination 10.0.0.1:90-80",
            "-A POSTROUTING -p tcp -j DNAT --to-destination 10.0.0.1:80",
            "-A PREROUTING -j SNAT --to-source 10.0.0.1",
            "-A INPUT -j MASQUERADE",
            "-A web -j MASQUERADE\n-A OUTPUT -j web",
            "-A POSTROUTING -j NETMAP --to 10.0.0.0/255.0.255.0",
        ],
    );
    shown += &rules_of(
        "mangle",
        &[
            "-A INPUT -j MARK",
            "-A INPUT -j MARK --set-mark 1 --or-mark 2",
        ],
    );
    shown += &rules_of(
        "raw",
        &["-A PREROUTING -j CT", "-A PREROUTING -j CT --helper ftp"],
    );
    snapshot!(shown);
}

#[test]
fn in_what_is_decided_at_connect() {
    snapshot!(rules_of(
        "tproxy",
        &[
            "-A OUTPUT -s 10.0.0.1",
            "-A OUTPUT -p tcp --sport 80",
            "-A OUTPUT -o eth0",
            "-A OUTPUT -p udp --dport 53",
            "-A OUTPUT -p tcp --syn",
            "-A OUTPUT -p tcp --tcp-flags SYN,ACK SYN",
            "-A OUTPUT -m state --state NEW",
            "-A OUTPUT -m limit",
            "-A OUTPUT -m tproxy",
            "-A OUTPUT -m zone --src inside",
            "-A OUTPUT -m set --match-set a src,dst",
            "-A OUTPUT -j LOG",
            "-A web -i eth0 -p tcp -j TPROXY\n-A OUTPUT -j web",
            "-A PREROUTING -m owner --uid-owner 0",
        ]
    ));
}

/// What only the surroundings tell: sets, zones, users.
#[test]
fn in_names_of_the_surroundings() {
    let owners: String = (0..9)
        .map(|n| format!("-A OUTPUT -m owner --uid-owner {n}\n"))
        .collect();
    let texts = [
        ("filter", "-A INPUT -m set --match-set net src"),
        ("filter", "-A INPUT -m set --match-set elsewhere src"),
        ("filter", "-A INPUT -m set --match-set pairs src"),
        ("filter", "-A INPUT -m zone --src insid"),
        ("filter", "-A INPUT -m zone --dst atlantis"),
        ("filter", "-A OUTPUT -m owner --uid-owner nobodyhere"),
        ("tproxy", "-A OUTPUT -m owner --gid-owner nobodyhere"),
        ("filter", &owners),
        (
            "filter",
            "-A INPUT -m hashlimit --hashlimit-upto 5/sec --hashlimit-name a\n-A INPUT -m hashlimit --hashlimit-upto 6/sec --hashlimit-name a",
        ),
    ];
    let mut shown = String::new();
    for (table, rules) in texts {
        let text = format!("*{table}\n{rules}\nCOMMIT\n");
        let (ruleset, _) = Ruleset::parse("rules.conf", &text).unwrap();
        let error = world::compile(&ruleset).unwrap_err();
        writeln!(shown, "{}\n    {error}", rules.lines().next().unwrap()).unwrap();
    }
    snapshot!(shown);
}

#[test]
fn what_has_no_effect_yet_is_warned_of() {
    let texts = [
        "*nat\n-A PREROUTING -p tcp -j REDIRECT\n-A POSTROUTING -j MASQUERADE\nCOMMIT\n",
        "*filter\n:FORWARD ACCEPT [0:0]\nCOMMIT\n",
        "*filter\n:a - [0:0]\n:b - [0:0]\n-A a -p tcp -j b\n-A b -j ACCEPT\n-A FORWARD -j a\nCOMMIT\n",
        "*filter\n-A FORWARD -o eth0 -j DROP\n-A INPUT -f -j DROP\nCOMMIT\n",
        "*filter\n:FORWARD ACCEPT [0:0]\n:a - [0:0]\n-A FORWARD -g a\n-A a -j DROP\nCOMMIT\n",
        "*filter\n:FORWARD ACCEPT [0:0]\n-A FORWARD -j DROP\n-A FORWARD -j ACCEPT\nCOMMIT\n",
        "*filter\n-A INPUT -m zone --src cable -j DROP\n-A INPUT -m zone --dst world -j DROP\nCOMMIT\n",
        "*filter\n-A INPUT -m zone --dst cable -j DROP\n-A INPUT -m zone --dst cable\n-A INPUT -m zone ! --dst cable\nCOMMIT\n",
        "*tproxy\n:OUTPUT DROP [0:0]\n:a - [0:0]\n-A OUTPUT -d 10.0.0.1 -j a\n-A a -j DROP\nCOMMIT\n",
        "*tproxy\n:OUTPUT DROP [0:0]\nCOMMIT\n",
        "*tproxy\n:a - [0:0]\n-A OUTPUT -p tcp -j a\n-A a -j DROP\n-A OUTPUT -p tcp -j DROP\nCOMMIT\n",
    ];
    let mut shown = String::new();
    for text in texts {
        let (ruleset, _) = Ruleset::parse("rules.conf", text).unwrap();
        let warnings = world::compile(&ruleset).unwrap().warnings;
        writeln!(shown, "{}", text.escape_debug()).unwrap();
        for warning in warnings {
            writeln!(shown, "    {warning}").unwrap();
        }
    }
    snapshot!(shown);
}

#[test]
fn in_files_of_sets() {
    let texts = [
        "create a hash:ip\ncreate a hash:net",
        "create a hash:ipp",
        "create a hash:mac",
        "create a",
        "create a hash:ip family inet6",
        "create a hash:ip hashsize many",
        "create a hash:ip sise 3",
        "create a hash:net netmask 24",
        "ad a 10.0.0.1",
        "flush a",
        "add a 10.0.0.1",
        "create clients hash:ip\nadd client 10.0.0.1",
        "create a hash:ip\nadd a 10.0.0.300",
        "create a hash:ip\nadd a 10.0.0.0/8",
        "create a hash:ip\nadd a 10.0.0.1 nomatch",
        "create a hash:ip\nadd a 10.0.0.1 timeoutt 3",
        "create a hash:ip,port\nadd a 10.0.0.1",
        "create a hash:ip,port\nadd a 10.0.0.1,tpc:80",
        "create a hash:ip,port\nadd a 10.0.0.1,icmp:8",
        "create a bitmap:port range 0-100\nadd a 70000",
        "create a bitmap:port range 0-100\nadd a 101",
        "create a bitmap:port range 80-100\nadd a tcp:79-81",
        "create a hash:ip timeout 300",
        "create a hash:ip timeout 0\nadd a 10.0.0.1 timeout 0\nadd a 10.0.0.2 timeout 0x10",
        "create a hash:ip,port\nadd a 10.0.0.1,htpp",
        "create a hash:net\nadd a 10.0.0.9-10.0.0.1",
        "create a-name-that-is-too-long-for-ipset-itself hash:ip",
    ];
    let mut shown = String::new();
    for text in texts {
        let error = rules::Sets::parse("ipset.conf", text).unwrap_err();
        writeln!(shown, "{}\n    {error}", text.escape_debug()).unwrap();
    }
    snapshot!(shown);
}
