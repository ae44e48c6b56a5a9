//! Filters: their text and what they match.

use proptest::prelude::*;

use super::*;
use crate::{Direction, Path};

fn flow() -> Flow {
    Flow {
        id: 7,
        proto: "tcp".into(),
        kind: FlowKind::Redirect,
        state: FlowState::Established,
        path: Path::Worker,
        orig: Direction {
            src: [10, 1, 0, 2].into(),
            sport: 40_000,
            dst: [192, 0, 2, 1].into(),
            dport: 80,
            packets: 1,
            bytes: 60,
        },
        reply: Direction {
            src: [10, 1, 0, 1].into(),
            sport: 3128,
            dst: [10, 1, 0, 2].into(),
            dport: 40_000,
            packets: 0,
            bytes: 0,
        },
        packets: 1,
        bytes: 60,
        age_ns: 0,
        idle_ns: 0,
        expires_ns: 0,
        rule_generation: 1,
    }
}

fn filter(json: &str) -> FlowFilter {
    serde_json::from_str(json).unwrap()
}

#[test]
fn every_field_selects_and_rejects() {
    let pairs = [
        (r#"{"id":7}"#, r#"{"id":8}"#),
        (r#"{"proto":"tcp"}"#, r#"{"proto":"udp"}"#),
        (r#"{"proto":"6"}"#, r#"{"proto":"17"}"#),
        (r#"{"src":"10.1.0.0/16"}"#, r#"{"src":"10.1.0.1"}"#),
        (r#"{"dst":"192.0.2.1"}"#, r#"{"dst":"10.1.0.1"}"#),
        (r#"{"sport":"1024:65535"}"#, r#"{"sport":"3128"}"#),
        (r#"{"dport":"80"}"#, r#"{"dport":"81-90"}"#),
        (r#"{"kind":"redirect"}"#, r#"{"kind":"local"}"#),
        (r#"{"state":"established"}"#, r#"{"state":"closing"}"#),
        (
            r#"{"proto":"tcp","dport":"80"}"#,
            r#"{"proto":"tcp","dport":"81"}"#,
        ),
    ];
    for (matching, other) in pairs {
        assert!(filter(matching).matches(&flow()), "{matching}");
        assert!(!filter(other).matches(&flow()), "{other}");
    }
    assert!(FlowFilter::default().matches(&flow()));
}

#[test]
fn networks_of_every_width() {
    let network = |text: &str| text.parse::<Network>().unwrap();
    assert!(network("0.0.0.0/0").contains([255, 255, 255, 255].into()));
    assert!(network("10.0.0.0/31").contains([10, 0, 0, 1].into()));
    assert!(!network("10.0.0.0/31").contains([10, 0, 0, 2].into()));
    assert!(!network("0.0.0.0/0").contains("::1".parse().unwrap()));
    assert!(network("2001:db8::/32").contains("2001:db8:ffff::1".parse().unwrap()));
    assert!(!network("::/0").contains([10, 0, 0, 1].into()));
    for text in ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "::/129", "x"] {
        assert!(text.parse::<Network>().is_err(), "{text}");
    }
}

#[test]
fn nonsense_is_refused_by_name() {
    for (json, words) in [
        (r#"{"proto":"tpc"}"#, "unknown protocol 'tpc'"),
        (r#"{"dport":"90:80"}"#, "'90:80' is not a port"),
        (r#"{"dport":"65536"}"#, "'65536' is not a port"),
        (r#"{"kind":"tunnel"}"#, "redirect"),
        (r#"{"sprot":"80"}"#, "unknown field `sprot`"),
    ] {
        let error = serde_json::from_str::<FlowFilter>(json)
            .unwrap_err()
            .to_string();
        assert!(error.contains(words), "{json}: {error}");
    }
}

proptest! {
    #[test]
    fn a_filter_survives_json(
        id in any::<Option<u64>>(),
        proto in any::<Option<u8>>(),
        src in any::<Option<IpAddr>>(),
        ports in any::<Option<(u16, u16)>>(),
    ) {
        let filter = FlowFilter {
            id,
            proto,
            src: src.map(|addr| Network { addr, prefix: 9 }),
            dport: ports.map(|(a, b)| PortRange { first: a.min(b), last: a.max(b) }),
            ..FlowFilter::default()
        };
        let json = serde_json::to_string(&filter).unwrap();
        prop_assert_eq!(serde_json::from_str::<FlowFilter>(&json).unwrap(), filter);
    }

    #[test]
    fn no_text_stops_a_parser(text in "\\PC*") {
        let _ = text.parse::<Network>();
        let _ = text.parse::<PortRange>();
    }
}
