//! Every mistake is answered by one line that names its place and what would be right.

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
        "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n",
        "*tproxy\nCOMMIT\n*nat\nCOMMIT\n",
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
        ":OUTPUT DROP [0:0]",
        "-A OUTPUT -j ACCEPT",
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
        "-A PREROUTING -m state --state NEW",
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
        "-A PREROUTING -p \u{1b}[2J",
        "-A PREROUTING -p tcp --dport http",
        "-A PREROUTING -p tcp --dport 65536",
        "-A PREROUTING -p tcp --dport 80,443",
        "-A PREROUTING -p tcp --dport 8000-8080",
        "-A PREROUTING -p tcp --dport 90:80",
        "-A PREROUTING -p tcp --dport 80:http",
    ]));
}

#[test]
fn in_targets() {
    snapshot!(rules(&[
        "-A PREROUTING -j DNAT --to-destination 10.0.0.1",
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
    ]));
}

#[test]
fn lists_that_would_make_too_many_rules_are_refused() {
    let list = vec!["10.0.0.1"; 100].join(",");
    let text = format!("*tproxy\n-A PREROUTING -s {list} -d {list} -j DROP\nCOMMIT\n");
    let error = Ruleset::parse("rules.conf", &text).unwrap_err().to_string();
    assert_eq!(
        error,
        "rules.conf:2:1: the lists of addresses make more than 4096 rules; use networks"
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
