//! What is no policy, and what the bounds are good for.

use std::net::Ipv4Addr;
use std::time::Instant;

use policy::{
    Action, ChainId, Decision, FirstPacket, LocalPort, MAX_NESTING, Network, Policy, PortId,
    PortRange, PortSet, Program, ProgramError, Rule, RuleId, Test, Verdict,
};
use wire::{Endpoint, Protocol, Tuple};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

fn rule(action: Action) -> Rule {
    Rule {
        action,
        ..Rule::default()
    }
}

fn jump(chain: u32) -> Rule {
    rule(Action::Jump(ChainId(chain)))
}

fn policy(chains: Vec<Vec<Rule>>) -> Result<Policy, ProgramError> {
    let ports = vec![LocalPort {
        port: PortId(3),
        first_address: Some(OWN),
    }];
    Policy::new(Program {
        generation: 1,
        chains,
        fallthrough: Verdict::Accept,
        ports,
    })
}

fn packet(dport: u16) -> FirstPacket {
    let end = |last, port| Endpoint::new(Ipv4Addr::new(10, 0, 0, last), port);
    FirstPacket {
        port: PortId(3),
        tuple: Tuple {
            proto: Protocol::TCP,
            src: end(9, 4000),
            dst: end(1, dport),
        },
    }
}

#[test]
fn a_jump_must_land() {
    let error = policy(vec![vec![rule(Action::Count), jump(7)]]).unwrap_err();
    assert_eq!(error, ProgramError::NoSuchChain { rule: RuleId(1) });
}

#[test]
fn a_circle_is_named_by_its_jumps_even_where_no_packet_comes() {
    // Chain 1 only leads into the circle of 2 and 3.
    let error = policy(vec![
        vec![rule(Action::Drop)],
        vec![jump(2)],
        vec![jump(3)],
        vec![rule(Action::Count), jump(2)],
    ]);
    let Err(ProgramError::Loop { mut jumps }) = error else {
        panic!("{error:?}")
    };
    jumps.sort_unstable();
    assert_eq!(jumps, [RuleId(2), RuleId(4)]);
}

/// Chains that each call the next `calls` times; `end` is the last one's only rule.
fn staircase(levels: usize, calls: usize, end: Rule) -> Vec<Vec<Rule>> {
    let mut chains: Vec<Vec<Rule>> = (1..=levels)
        .map(|next| vec![jump(u32::try_from(next).unwrap()); calls])
        .collect();
    chains.push(vec![end]);
    chains
}

#[test]
fn the_deepest_nesting_is_walked_and_one_more_is_refused() {
    let deepest = policy(staircase(MAX_NESTING, 1, rule(Action::Drop))).unwrap();
    let mut hits = 0;
    assert_eq!(deepest.decide(&packet(80), |_| hits += 1), Decision::Drop);
    assert_eq!(hits, MAX_NESTING + 1);
    let error = policy(staircase(MAX_NESTING + 1, 1, rule(Action::Drop))).unwrap_err();
    assert!(matches!(error, ProgramError::TooDeep { .. }), "{error:?}");
}

#[test]
fn calls_that_double_at_every_level_are_refused() {
    assert_eq!(
        policy(staircase(MAX_NESTING, 2, rule(Action::Count))).unwrap_err(),
        ProgramError::TooLong
    );
}

#[test]
fn many_chains_in_any_order_are_checked_at_once() {
    // Every chain jumps somewhere, none deeper than a few levels, called before and after declaration.
    let chains = (0..100_000u32).map(|n| {
        vec![if n % 3 == 0 {
            rule(Action::Return)
        } else {
            jump((n + 30_001) / 3 * 3 % 99_999)
        }]
    });
    let begun = Instant::now();
    policy(chains.collect()).unwrap();
    let circle = (0..100_000u32)
        .map(|n| vec![jump((n + 1) % 100_000)])
        .collect();
    assert!(matches!(policy(circle), Err(ProgramError::Loop { jumps }) if jumps.len() == 100_000));
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
}

#[test]
fn where_exactness_costs_too_much_the_answer_is_wider_and_still_complete() {
    // Sources are not followed, so nothing is settled on the way and all paths stay open: 2^18 of them.
    let end = Rule {
        source: Test::Is(Network::new(
            Ipv4Addr::new(10, 0, 0, 9),
            Ipv4Addr::BROADCAST,
        )),
        proto: Test::Is(Protocol::TCP),
        destination_ports: Test::Is(PortRange::new(80, 81)),
        ..rule(Action::Redirect {
            addr: None,
            port: Some(8080),
        })
    };
    let mut chains = staircase(17, 2, end);
    // Cuts what goes down the stairs in pieces.
    let port = |port| Test::Is(PortRange::new(port, port));
    let cut = |n: u16| Rule {
        destination_ports: port(1000 + 2 * n),
        ..rule(Action::Accept)
    };
    chains[0].splice(0..0, (0..8).map(cut));
    // Never reached by a packet, but the coarse answer does not know.
    chains.push(vec![Rule {
        destination_ports: port(443),
        ..rule(Action::Drop)
    }]);
    let policy = policy(chains).unwrap();
    assert_eq!(
        policy.decide(&packet(80), |_| {}),
        Decision::Redirect(Endpoint::new(OWN, 8080))
    );
    let begun = Instant::now();
    let concerns = policy.concerns(&[OWN]);
    assert!(begun.elapsed().as_secs() < 10, "{:?}", begun.elapsed());
    let covers = |port| {
        concerns
            .iter()
            .any(|e| e.addr == OWN && e.ports.contains(&port))
    };
    assert!(covers(80) && covers(81) && !covers(79), "{concerns:?}");
    assert!(
        covers(443),
        "the walk ended within its budget, so this test tests nothing: {concerns:?}"
    );
    let proxies = policy.proxies();
    assert_eq!(proxies.len(), 1, "{proxies:?}");
    assert_eq!(
        (proxies[0].addr, proxies[0].proto, proxies[0].ports.clone()),
        (OWN, Protocol::TCP, 8080..=8080)
    );
}

#[test]
fn a_redirect_to_where_the_packet_goes_is_a_direct_connection() {
    let keep = policy(vec![vec![
        rule(Action::Redirect {
            addr: None,
            port: None,
        }),
        rule(Action::Drop),
    ]])
    .unwrap();
    let mut hits = Vec::new();
    assert_eq!(
        keep.decide(&packet(80), |id| hits.push(id)),
        Decision::Unclaimed
    );
    assert_eq!(hits, [RuleId(0)]);
    assert!(keep.concerns(&[OWN]).is_empty());
    assert_eq!(keep.concerns(&[Ipv4Addr::new(10, 0, 0, 2)]).len(), 1);
}

#[test]
fn ports_that_are_not_configured_match_what_names_none() {
    let only = |ports: PortSet| {
        policy(vec![vec![Rule {
            in_ports: ports,
            ..rule(Action::Drop)
        }]])
        .unwrap()
    };
    let three: PortSet = [PortId(3)].into_iter().collect();
    let from = |policy: &Policy, port| {
        policy.decide(
            &FirstPacket {
                port: PortId(port),
                ..packet(80)
            },
            |_| {},
        )
    };
    assert_eq!(
        (from(&only(three), 3), from(&only(three), 255)),
        (Decision::Drop, Decision::Unclaimed)
    );
    let other = only(three.complement());
    assert_eq!(
        (from(&other, 3), from(&other, 255)),
        (Decision::Unclaimed, Decision::Drop)
    );
}

#[test]
fn a_claim_on_protocol_number_0_alone_is_not_lost() {
    let zero = Rule {
        proto: Test::Is(Protocol(0)),
        ..rule(Action::Drop)
    };
    let concerns = policy(vec![vec![zero]]).unwrap().concerns(&[OWN]);
    assert!(
        concerns
            .iter()
            .any(|e| e.proto == Protocol(0) && e.ports == (0..=u16::MAX)),
        "{concerns:?}"
    );
}
