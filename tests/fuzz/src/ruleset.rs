//! A text is read as a ruleset, printed, read again, compiled and asked.

use std::net::Ipv4Addr;

use policy::{FirstPacket, PortId};
use rules::{Interface, Ruleset};
use wire::{Endpoint, Protocol, Tuple};

/// The input: the text of a ruleset.
///
/// # Panics
/// If an error does not name a place of the text, or a ruleset does not come back from what it
/// prints.
pub fn ruleset(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (ruleset, warnings) = match Ruleset::parse("rules.conf", &text) {
        Ok(parsed) => parsed,
        Err(error) => return one_line(&error.to_string(), &text),
    };
    for warning in warnings {
        one_line(&warning.to_string(), &text);
    }
    let printed = ruleset.to_string();
    match Ruleset::parse("rules.conf", &printed) {
        Ok((again, _)) => assert_eq!(again, ruleset, "{printed}"),
        Err(error) => panic!("{error}\n{printed}"),
    }
    asked(&ruleset);
}

/// A message is one line and names a place that the text has.
fn one_line(message: &str, text: &str) {
    assert!(!message.contains(|c: char| c.is_control()), "{message:?}");
    let mut parts = message.splitn(4, ':').skip(1);
    let mut number = || -> Option<usize> { parts.next()?.trim().parse().ok() };
    let (Some(line), Some(_)) = (number(), number()) else {
        panic!("no place in {message:?}");
    };
    let lines = text.split('\n').count();
    assert!((1..=lines).contains(&line), "{message:?} of {lines} lines");
}

fn asked(ruleset: &Ruleset) {
    let interface = |name: &str, port: u8, first_address| Interface {
        name: name.to_owned(),
        port: PortId(port),
        first_address,
    };
    let interfaces = [
        interface("eth1", 0, Some(Ipv4Addr::new(192, 168, 1, 1))),
        interface("eth2", 1, None),
    ];
    let Ok(policy) = rules::compile(ruleset, &interfaces, 1) else {
        return;
    };
    let proxies = policy.proxies();
    for port in [PortId(0), PortId(1), PortId(2)] {
        for proto in [Protocol::TCP, Protocol::UDP, Protocol::ICMP] {
            let tuple = Tuple {
                proto,
                src: Endpoint::new(Ipv4Addr::new(192, 168, 1, 10), 40_000),
                dst: Endpoint::new(Ipv4Addr::new(198, 51, 100, 10), 80),
            };
            let decision = policy.decide(&FirstPacket { port, tuple }, |_| {});
            let policy::Decision::Redirect(to) = decision else {
                continue;
            };
            // What answers from there must be diverted on its way out.
            let is_known = proxies.iter().any(|set| {
                set.addr == to.addr
                    && set.ports.contains(&to.port)
                    && (set.proto == proto || set.proto == Protocol(0))
            });
            assert!(is_known, "{to:?} is none of {proxies:?}\n{ruleset}");
        }
    }
}
