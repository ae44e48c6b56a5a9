//! What is no policy, and what the bounds are good for.

use std::net::Ipv4Addr;
use std::time::Instant;

use policy::{
    Action, Arrival, ChainId, Condition, Entry, Hook, LocalPort, MAX_NESTING, MAX_OWNERS, Network,
    NoListener, OwnerTest, Packet, Policy, PortId, PortRange, PortSet, Program, ProgramError,
    Quality, Rule, RuleId, SetId, Sink, Stop, Test, Verdict,
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

/// A tproxy PREROUTING that begins with the first chain.
fn program(chains: Vec<Vec<Rule>>) -> Program {
    Program {
        generation: 1,
        chains,
        entries: vec![entry(Hook::TproxyPrerouting, 0)],
        ports: vec![LocalPort {
            port: PortId(3),
            first_address: Some(OWN),
        }],
        ..Program::default()
    }
}

fn entry(hook: Hook, chain: u32) -> Entry {
    Entry {
        hook,
        chain: ChainId(chain),
        policy: Verdict::Accept,
    }
}

fn policy(chains: Vec<Vec<Rule>>) -> Result<Policy, ProgramError> {
    Policy::new(program(chains))
}

fn packet(dport: u16) -> Packet {
    let end = |last, port| Endpoint::new(Ipv4Addr::new(10, 0, 0, last), port);
    Packet::first(
        PortId(3),
        Tuple {
            proto: Protocol::TCP,
            src: end(9, 4000),
            dst: end(1, dport),
        },
    )
}

#[derive(Default)]
struct Hits(Vec<RuleId>);

impl Sink for Hits {
    fn matched(&mut self, rule: RuleId, _: &Packet) {
        self.0.push(rule);
    }
    fn log(&mut self, _: RuleId, _: &Packet) {}
}

fn ask(policy: &Policy, mut packet: Packet) -> (Arrival, Vec<RuleId>) {
    let mut hits = Hits::default();
    (policy.arrive(&mut packet, false, &mut hits), hits.0)
}

const DROPPED: Arrival = Arrival::Stop(Stop::Drop);

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
    let (arrival, hits) = ask(&deepest, packet(80));
    assert_eq!((arrival, hits.len()), (DROPPED, MAX_NESTING + 1));
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
            otherwise: NoListener::Reject,
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
        ask(&policy, packet(80)).0,
        Arrival::Redirect {
            to: Endpoint::new(OWN, 8080),
            otherwise: NoListener::Reject
        }
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
            otherwise: NoListener::Reject,
        }),
        rule(Action::Drop),
    ]])
    .unwrap();
    assert_eq!(ask(&keep, packet(80)), (Arrival::Goes, vec![RuleId(0)]));
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
        let in_port = Some(PortId(port));
        ask(
            policy,
            Packet {
                in_port,
                ..packet(80)
            },
        )
        .0
    };
    assert_eq!(
        (from(&only(three), 3), from(&only(three), 255)),
        (DROPPED, Arrival::Goes)
    );
    let other = only(three.complement());
    assert_eq!(
        (from(&other, 3), from(&other, 255)),
        (Arrival::Goes, DROPPED)
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

#[test]
fn a_goto_returns_where_its_chain_would() {
    // 0: jump 1, drop; 1: goto 2, accept; 2: count.
    let gone = policy(vec![
        vec![jump(1), rule(Action::Drop)],
        vec![rule(Action::Goto(ChainId(2))), rule(Action::Accept)],
        vec![rule(Action::Count)],
    ])
    .unwrap();
    let (arrival, hits) = ask(&gone, packet(80));
    assert_eq!(arrival, DROPPED);
    assert_eq!(hits, [0, 2, 4, 1].map(RuleId));
    let circle = policy(vec![
        vec![rule(Action::Goto(ChainId(1)))],
        vec![rule(Action::Goto(ChainId(0)))],
    ]);
    assert!(matches!(circle, Err(ProgramError::Loop { jumps }) if jumps.len() == 2));
}

#[test]
fn a_goto_takes_with_it_what_steering_must_know() {
    // What comes back from the goto's chain passes the rest of its caller by, and drops in the first.
    let port = |port| Test::Is(PortRange::new(port, port));
    let first = Rule {
        destination_ports: port(80),
        ..rule(Action::Goto(ChainId(2)))
    };
    let gone = policy(vec![
        vec![jump(1), rule(Action::Drop)],
        vec![first, rule(Action::Accept)],
        vec![rule(Action::Count)],
    ])
    .unwrap();
    assert_eq!(ask(&gone, packet(80)).0, DROPPED);
    assert_eq!(ask(&gone, packet(81)).0, Arrival::Goes);
    let concerns = gone.concerns(&[OWN]);
    assert!(
        concerns.iter().any(|e| e.ports.contains(&80)),
        "{concerns:?}"
    );
    assert!(
        !concerns.iter().any(|e| e.ports.contains(&81)),
        "{concerns:?}"
    );
}

#[test]
fn a_condition_may_hold_or_not_for_steering() {
    let tproxy = vec![Condition {
        negated: false,
        test: Quality::Mark { value: 1, mask: 1 },
    }];
    let may_accept = Rule {
        more: tproxy,
        ..rule(Action::Accept)
    };
    let concerns = policy(vec![vec![may_accept.clone(), rule(Action::Drop)]])
        .unwrap()
        .concerns(&[OWN]);
    assert!(!concerns.is_empty(), "what ACCEPT may not match is dropped");
    let may_drop = Rule {
        action: Action::Drop,
        ..may_accept
    };
    let concerns = policy(vec![vec![may_drop]]).unwrap().concerns(&[OWN]);
    assert!(!concerns.is_empty(), "what DROP may match is dropped");
}

#[test]
fn steering_hears_of_tproxy_prerouting_only() {
    let filter = Policy::new(Program {
        entries: vec![entry(Hook::FilterInput, 0)],
        ..program(vec![vec![rule(Action::Drop)]])
    })
    .unwrap();
    assert_eq!(
        (filter.concerns(&[OWN]), filter.proxies()),
        (vec![], vec![])
    );
    assert!(filter.judges() && filter.guards());
}

#[test]
fn what_stands_judges_and_guards() {
    let of = |hook, rules: Vec<Rule>, verdict| {
        let policy = Policy::new(Program {
            entries: vec![Entry {
                policy: verdict,
                ..entry(hook, 0)
            }],
            ..program(vec![rules])
        })
        .unwrap();
        (policy.stands(hook), policy.judges(), policy.guards())
    };
    for hook in Hook::ALL {
        let is_judge = hook.table() != "tproxy";
        let is_guard = is_judge && hook.chain() != "FORWARD";
        assert_eq!(
            of(hook, vec![], Verdict::Accept),
            (false, false, false),
            "{hook:?}"
        );
        assert_eq!(
            of(hook, vec![], Verdict::Drop),
            (true, is_judge, is_guard),
            "{hook:?}"
        );
        assert_eq!(
            of(hook, vec![rule(Action::Log)], Verdict::Accept),
            (true, is_judge, is_guard),
            "{hook:?}"
        );
    }
}

#[test]
fn chain_policies_count_behind_all_rules() {
    let drop = Entry {
        policy: Verdict::Drop,
        ..entry(Hook::FilterInput, 1)
    };
    let policy = Policy::new(Program {
        entries: vec![entry(Hook::TproxyPrerouting, 0), drop],
        ..program(vec![vec![rule(Action::Count)], vec![rule(Action::Count)]])
    })
    .unwrap();
    assert_eq!(policy.rule_count(), 4);
    assert_eq!(ask(&policy, packet(80)).1, [0, 2].map(RuleId));
    let mut hits = Hits::default();
    let stopped = policy.input(&mut packet(80), &mut hits);
    assert_eq!(
        (stopped, hits.0),
        (Err(Stop::Drop), vec![RuleId(1), RuleId(3)])
    );
}

#[test]
fn without_a_filter_table_transit_stops_and_the_rest_goes() {
    let empty = Policy::empty(7);
    assert_eq!(empty.arrive(&mut packet(80), false, &mut ()), Arrival::Goes);
    assert_eq!(empty.input(&mut packet(80), &mut ()), Ok(()));
    assert_eq!(empty.leave(&mut packet(80), &mut ()), Ok(()));
    assert_eq!(empty.forward(&mut packet(80), &mut ()), Err(Stop::Drop));
    assert!(!empty.judges() && !empty.guards());
}

#[test]
fn an_action_must_be_where_it_has_a_meaning() {
    let redirect = Action::Redirect {
        addr: None,
        port: None,
        otherwise: NoListener::Reject,
    };
    for (action, home) in [
        (redirect, "tproxy"),
        (Action::Nat, "nat"),
        (Action::NoTrack, "raw"),
    ] {
        for hook in Hook::ALL {
            let made = Policy::new(Program {
                entries: vec![entry(hook, 1)],
                ..program(vec![vec![rule(action)], vec![jump(0)]])
            });
            let rule = RuleId(0);
            match hook.table() == home {
                true => assert!(made.is_ok(), "{hook:?}"),
                false => assert_eq!(made.unwrap_err(), ProgramError::Misplaced { rule, hook }),
            }
        }
    }
}

#[test]
fn entries_sets_and_owners_must_be_there() {
    let made = |entries, test, owners| {
        let asks = Rule {
            more: vec![Condition {
                negated: false,
                test,
            }],
            ..rule(Action::Accept)
        };
        Policy::new(Program {
            entries,
            owners,
            ..program(vec![vec![asks]])
        })
        .map(|_| ())
    };
    let uid = |uid| OwnerTest {
        uids: uid..=uid,
        gids: None,
    };
    let rule = RuleId(0);
    let input = || vec![entry(Hook::FilterInput, 0)];
    let set = Quality::Set {
        set: SetId(0),
        by: vec![],
    };
    assert_eq!(
        made(vec![entry(Hook::FilterInput, 5)], Quality::Tail, vec![]),
        Err(ProgramError::NoSuchEntry(Hook::FilterInput))
    );
    assert_eq!(
        made([input(), input()].concat(), Quality::Tail, vec![]),
        Err(ProgramError::EntryTwice(Hook::FilterInput))
    );
    assert_eq!(
        made(input(), set, vec![]),
        Err(ProgramError::NoSuchTest { rule })
    );
    assert_eq!(
        made(input(), Quality::Owner(1), vec![uid(0)]),
        Err(ProgramError::NoSuchTest { rule })
    );
    let of_group = OwnerTest {
        gids: Some(1..=1),
        ..uid(0)
    };
    let connects = || vec![entry(Hook::TproxyOutput, 0)];
    assert_eq!(
        made(input(), Quality::Owner(0), vec![of_group.clone()]),
        Err(ProgramError::Owners { rule })
    );
    assert_eq!(made(connects(), Quality::Owner(0), vec![of_group]), Ok(()));
    let many: Vec<_> = (0..=MAX_OWNERS as u32).map(uid).collect();
    let (last, one_more) = (MAX_OWNERS as u8 - 1, MAX_OWNERS as u8);
    assert_eq!(made(input(), Quality::Owner(last), many.clone()), Ok(()));
    assert_eq!(
        made(input(), Quality::Owner(one_more), many.clone()),
        Err(ProgramError::Owners { rule })
    );
    assert_eq!(made(connects(), Quality::Owner(one_more), many), Ok(()));
}

#[test]
fn ten_thousand_hosts_that_share_a_long_chain_are_within_bounds() {
    let host = |n: u32| Rule {
        source: Test::Is(Network::new(
            Ipv4Addr::from_bits(0x0a00_0000 + n),
            Ipv4Addr::BROADCAST,
        )),
        ..jump(1)
    };
    let shared = vec![rule(Action::Count); 500];
    // One packet comes from one host, so the shared chain is passed once.
    policy(vec![(0..10_000).map(host).collect(), shared.clone()]).unwrap();
    // Here it is passed for every rule.
    assert_eq!(
        policy(vec![vec![jump(1); 10_000], shared]).unwrap_err(),
        ProgramError::TooLong
    );
}

#[test]
fn a_mark_that_is_set_on_the_way_finds_what_asks_for_it_further_down() {
    let marked = |action| Rule {
        more: vec![Condition {
            negated: false,
            test: Quality::Mark {
                value: 1,
                mask: u32::MAX,
            },
        }],
        ..rule(action)
    };
    // Not marked yet, it passes the first of the two, which lie under one key.
    let mut chain = vec![
        marked(Action::Accept),
        rule(Action::Mark { and: 0, xor: 1 }),
        marked(Action::Drop),
    ];
    let other = Rule {
        proto: Test::Is(Protocol::UDP),
        ..rule(Action::Count)
    };
    chain.extend(vec![other; 20]);
    let (arrival, hits) = ask(&policy(vec![chain]).unwrap(), packet(80));
    assert_eq!((arrival, hits), (DROPPED, [1, 2].map(RuleId).to_vec()));
}
