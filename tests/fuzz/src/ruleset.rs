//! A text is read as a ruleset, printed, read again, compiled and asked; and as a file of sets.

use std::net::Ipv4Addr;
use std::sync::Arc;

use policy::{Arrival, Packet, Policy, PortId, RuleId, Zones};
use rules::{Environment, Interface, Ruleset, Sets};
use wire::{Endpoint, Protocol, Tuple};

/// Sets that rules of the corpus name.
const SETS: &str = "create a hash:net\nadd a 10.0.0.0/8\ncreate b hash:ip,port\nadd b 10.0.0.1,tcp:80\ncreate c bitmap:port range 0-65535\nadd c 80\n";

/// The input: the text of a ruleset, or of sets.
///
/// # Panics
/// If an error does not name a place of the text, or a ruleset does not come back from what it
/// prints.
pub fn ruleset(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(error) = Sets::parse("ipset.conf", &text) {
        one_line(&error.to_string(), &text);
    }
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
    let saved = ruleset.save(|RuleId(id)| (id.into(), u64::MAX));
    if let Err(error) = Ruleset::parse("rules.conf", &saved) {
        panic!("{error}\n{saved}");
    }
    assert_eq!(ruleset.rows().count(), ruleset.rule_count());
    asked(&ruleset, &text);
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

fn asked(ruleset: &Ruleset, text: &str) {
    let interface = |name: &str, port: u8, first_address| Interface {
        name: name.to_owned(),
        port: PortId(port),
        first_address,
    };
    let interfaces = [
        interface("eth1", 0, Some(Ipv4Addr::new(192, 168, 1, 1))),
        interface("eth2", 1, None),
    ];
    let Ok(sets) = Sets::parse("ipset.conf", SETS) else {
        panic!("the sets are in order");
    };
    let root = |name: &str| (name == "root").then_some(0);
    let environment = Environment {
        interfaces: &interfaces,
        sets: &sets,
        zones: &Arc::new(Zones::none()),
        user: &root,
        group: &root,
    };
    let policy = match rules::compile(ruleset, &environment, 1) {
        Ok(compiled) => {
            for warning in compiled.warnings {
                one_line(&warning.to_string(), text);
            }
            compiled.policy
        }
        Err(error) => return one_line(&error.to_string(), text),
    };
    for port in [PortId(0), PortId(1), PortId(2)] {
        for proto in [Protocol::TCP, Protocol::UDP, Protocol::ICMP] {
            let tuple = Tuple {
                proto,
                src: Endpoint::new(Ipv4Addr::new(192, 168, 1, 10), 40_000),
                dst: Endpoint::new(Ipv4Addr::new(198, 51, 100, 10), 80),
            };
            every_way(&policy, Packet::first(port, tuple), ruleset);
        }
    }
}

fn every_way(policy: &Policy, packet: Packet, ruleset: &Ruleset) {
    let arrival = policy.arrive(&mut { packet }, false, &mut ());
    let _ = policy.input(&mut { packet }, &mut ());
    let _ = policy.forward(&mut { packet }, &mut ());
    let _ = policy.leave(&mut { packet }, &mut ());
    let Arrival::Redirect { to, .. } = arrival else {
        return;
    };
    // What answers from there must be diverted on its way out.
    let proxies = policy.proxies();
    let is_known = proxies.iter().any(|set| {
        set.addr == to.addr
            && set.ports.contains(&to.port)
            && (set.proto == packet.tuple.proto || set.proto == Protocol(0))
    });
    assert!(is_known, "{to:?} is none of {proxies:?}\n{ruleset}");
}
