//! A policy does what reading its rules from top to bottom does: the same verdict, the same
//! rules matched in the same order, the same logged, the same mark and state left behind.

#![allow(
    clippy::wildcard_imports,
    reason = "the interpreter speaks of nearly all of the room's words"
)]

mod naive;
mod random;

use naive::{Naive, Story};
use policy::{Arrival, ConnState, Endpoints, Hook, Packet, Policy, Program, Stop};
use proptest::prelude::*;
use wire::Protocol;

const INPUT: &[Hook] = &[Hook::MangleInput, Hook::FilterInput, Hook::NatInput];
const FORWARD: &[Hook] = &[
    Hook::MangleForward,
    Hook::FilterForward,
    Hook::ManglePostrouting,
    Hook::NatPostrouting,
];
const LEAVE: &[Hook] = &[
    Hook::RawOutput,
    Hook::MangleOutput,
    Hook::NatOutput,
    Hook::FilterOutput,
    Hook::ManglePostrouting,
    Hook::NatPostrouting,
];

type Asked<T> = (T, Packet, Story);
type Way = (&'static [Hook], Asked<Result<(), Stop>>);

fn asked<T>(mut packet: Packet, ask: impl FnOnce(&mut Packet, &mut Story) -> T) -> Asked<T> {
    let mut story = Story::default();
    let answer = ask(&mut packet, &mut story);
    (answer, packet, story)
}

/// Of a difference, tells the first rule that only one of them matched.
fn agree<T: PartialEq + std::fmt::Debug>(
    program: &Program,
    way: &str,
    got: Asked<T>,
    expected: Asked<T>,
) -> Result<(), TestCaseError> {
    if got == expected {
        return Ok(());
    }
    let (a, b) = (&got.2.matched, &expected.2.matched);
    let at = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let id = a
        .get(at)
        .into_iter()
        .chain(b.get(at))
        .map(|(id, _)| *id)
        .min();
    let mut rules = program.chains.iter().flatten();
    let rule = id.and_then(|id| rules.nth(id.0 as usize));
    Err(TestCaseError::fail(format!(
        "{way}\n got      {got:?}\n expected {expected:?}\n{id:?} {rule:?}"
    )))
}

fn compare(program: &Program, packets: &[Packet]) -> Result<(), TestCaseError> {
    let mut naive = Naive::new(program);
    let policy = Policy::new(program.clone()).unwrap();
    let mut now_ns = 1_000_000;
    for (nth, packet) in packets.iter().enumerate() {
        now_ns += packet.now_ns;
        let packet = Packet { now_ns, ..*packet };
        let is_taken = nth % 5 == 4;
        let arrived: Asked<Arrival> = asked(packet, |p, s| policy.arrive(p, is_taken, s));
        let expected = asked(packet, |p, s| naive.arrive(p, is_taken, s));
        agree(program, "arrive", arrived, expected)?;
        let ways: [Way; 3] = [
            (INPUT, asked(packet, |p, s| policy.input(p, s))),
            (FORWARD, asked(packet, |p, s| policy.forward(p, s))),
            (LEAVE, asked(packet, |p, s| policy.leave(p, s))),
        ];
        for (hooks, answer) in ways {
            let expected = asked(packet, |p, s| naive.way(hooks, p, s));
            agree(program, &format!("{hooks:?}"), answer, expected)?;
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Chains from empty to somewhat longer than those that are read from top to bottom.
    #[test]
    fn chains_of_a_few_rules(
        program in random::program(0..20),
        packets in proptest::collection::vec(random::packet(), 30),
    ) {
        compare(&program, &packets)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// So many kinds of rules in a chain that keys become coarser.
    #[test]
    fn chains_of_many_rules(
        program in random::program(100..300),
        packets in proptest::collection::vec(random::packet(), 60),
    ) {
        compare(&program, &packets)?;
    }
}

/// Steering diverts what [`Policy::concerns`] and [`Policy::proxies`] name, and nothing else to
/// the box itself: whatever tproxy has a say about must be there.
fn hears(program: &Program, packets: &[Packet]) -> Result<(), TestCaseError> {
    let policy = Policy::new(program.clone()).unwrap();
    let names = |all: &[Endpoints], proto: Protocol, at: wire::Endpoint| {
        all.iter().any(|e| {
            e.addr == at.addr
                && (e.proto == Protocol(0) || e.proto == proto)
                && e.ports.contains(&at.port)
        })
    };
    let proxies = policy.proxies();
    for packet in packets {
        let mut packet = Packet {
            state: ConnState::New,
            is_tail: false,
            ..*packet
        };
        if packet.tuple.proto == Protocol::ICMP {
            packet.tuple.dst.port = 0;
        }
        let is_configured = |local: &policy::LocalPort| Some(local.port) == packet.in_port;
        if !program.ports.iter().any(is_configured) {
            continue;
        }
        let (proto, dst) = (packet.tuple.proto, packet.tuple.dst);
        match policy.arrive(&mut packet, false, &mut ()) {
            Arrival::Goes => continue,
            Arrival::Redirect { to, .. } => {
                prop_assert!(names(&proxies, proto, to), "{to}: {proxies:?}");
            }
            Arrival::NoLocalAddress | Arrival::Stop(_) => {}
        }
        let concerns = policy.concerns(&[dst.addr]);
        prop_assert!(names(&concerns, proto, dst), "{dst}: {concerns:?}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn steering_hears_of_all_that_tproxy_can_say(
        mut program in random::program(0..12),
        packets in proptest::collection::vec(random::packet(), 30),
    ) {
        program.entries.retain(|entry| entry.hook == Hook::TproxyPrerouting);
        hears(&program, &packets)?;
    }
}
