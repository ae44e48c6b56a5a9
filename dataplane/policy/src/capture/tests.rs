use proptest::collection::vec;
use proptest::prelude::*;
use wire::{Endpoint, Protocol, Tuple};

use super::*;
use crate::{
    Action, Arrival, ChainId, Condition, ConnState, End, Entry, IpSet, Packet, Policy, PortId,
    PortRange, PortSet, Quality, Rate, Rule, SetEntries, SetId, Sink, StateSet, Stop, Test, WIDEST,
    Which, ZoneId,
};

mod random;

use random::{opening, program};

/// A connection that is being opened.
#[derive(Clone, Copy, Debug)]
struct Opening {
    to: Endpoint,
    user: u32,
    group: u32,
    mark: u32,
}

/// What becomes of it, and which rules it met.
#[derive(PartialEq, Eq, Debug)]
enum Outcome {
    Goes,
    Refused(Refusal),
    Redirected(Endpoint, NoListener),
}

#[derive(Default)]
struct Met(Vec<RuleId>);

impl Sink for Met {
    fn matched(&mut self, rule: RuleId, _: &Packet) {
        self.0.push(rule);
    }
    fn log(&mut self, _: RuleId, _: &Packet) {}
}

/// Walks the steps as the program at connect() does.
fn walk(nodes: &[Node], opening: &Opening) -> (Outcome, Vec<RuleId>) {
    let mut met = Vec::new();
    let mut at = 0;
    loop {
        let node = &nodes[usize::from(at)];
        met.extend(node.rule);
        let next = match &node.step {
            Step::Ask {
                question,
                then,
                otherwise,
            } if answer(question, opening) => {
                assert!(at < *otherwise);
                *then
            }
            Step::Ask { otherwise, .. } => *otherwise,
            Step::Pass { then } => *then,
            Step::Go => return (Outcome::Goes, met),
            Step::Refuse(how) => return (Outcome::Refused(*how), met),
            Step::Redirect {
                addr,
                port,
                otherwise,
            } => {
                let to = Endpoint::new(*addr, port.unwrap_or(opening.to.port));
                let end = if to == opening.to {
                    Outcome::Goes
                } else {
                    Outcome::Redirected(to, *otherwise)
                };
                return (end, met);
            }
        };
        assert!(at < next, "a step leads back");
        at = next;
    }
}

fn answer(question: &Question, opening: &Opening) -> bool {
    match question {
        Question::Network(network) => network.contains(opening.to.addr),
        Question::Range(range) => range.contains(&opening.to.addr),
        Question::Ports(range) => range.contains(&opening.to.port),
        Question::Users(range) => range.contains(&opening.user),
        Question::Groups(range) => range.contains(&opening.group),
        Question::Mark { value, mask } => opening.mark & mask == *value,
    }
}

/// The same by the policy's own walk: as if it came in, where owners are not asked for.
fn by_policy(program: &Program, opening: &Opening) -> (Outcome, Vec<RuleId>) {
    let mut program = program.clone();
    for entry in &mut program.entries {
        entry.hook = Hook::TproxyPrerouting;
    }
    for rule in program.chains.iter_mut().flatten() {
        if let Action::Redirect { addr, .. } = &mut rule.action {
            addr.get_or_insert(Ipv4Addr::LOCALHOST);
        }
        for condition in &mut rule.more {
            if let Quality::Owner(owner) = condition.test {
                let test = &program.owners[usize::from(owner)];
                let is_group = test
                    .gids
                    .as_ref()
                    .is_none_or(|of| of.contains(&opening.group));
                let holds = test.uids.contains(&opening.user) && is_group;
                // No packet here is a later fragment.
                condition.test = Quality::Tail;
                condition.negated = holds != condition.negated;
            }
        }
    }
    let tuple = Tuple {
        proto: Protocol::TCP,
        src: Endpoint::new(Ipv4Addr::new(10, 0, 0, 1), 40_000),
        dst: opening.to,
    };
    let mut packet = Packet {
        in_port: None,
        tcp_flags: Some(2),
        mark: opening.mark,
        ..Packet::first(PortId(0), tuple)
    };
    let mut met = Met::default();
    let policy = Policy::new(program).unwrap();
    let end = match policy.arrive(&mut packet, false, &mut met) {
        Arrival::Goes => Outcome::Goes,
        Arrival::Redirect { to, otherwise } => Outcome::Redirected(to, otherwise),
        Arrival::Stop(Stop::Drop) => Outcome::Refused(Refusal::Dropped),
        Arrival::Stop(Stop::Reject(with)) => Outcome::Refused(Refusal::Rejected(with)),
        other => panic!("{other:?}"),
    };
    (end, met.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_steps_say_what_the_rules_say(program in program(), openings in vec(opening(), 1..24)) {
        let nodes = nodes(&program).unwrap();
        if nodes.is_empty() {
            prop_assert!(program.chains[0].is_empty());
            return Ok(());
        }
        for opening in &openings {
            prop_assert_eq!(walk(&nodes, opening), by_policy(&program, opening), "{:?}", opening);
        }
    }
}

fn one_chain(rules: Vec<Rule>) -> Program {
    Program {
        chains: vec![vec![Rule::default()], rules],
        entries: vec![Entry {
            hook: Hook::TproxyOutput,
            chain: ChainId(1),
            policy: Verdict::Accept,
        }],
        ..Program::default()
    }
}

fn asks(test: Quality) -> Rule {
    Rule {
        more: vec![Condition {
            negated: false,
            test,
        }],
        ..Rule::default()
    }
}

#[test]
fn rules_that_say_nothing_take_no_steps() {
    assert_eq!(nodes(&Program::default()), Ok(Vec::new()));
    assert_eq!(nodes(&one_chain(Vec::new())), Ok(Vec::new()));
    let mut elsewhere = one_chain(vec![Rule::default()]);
    elsewhere.entries[0].hook = Hook::TproxyPrerouting;
    assert_eq!(nodes(&elsewhere), Ok(Vec::new()));
    let mut closed = one_chain(Vec::new());
    closed.entries[0].policy = Verdict::Drop;
    let refusal = Node {
        step: Step::Refuse(Refusal::Dropped),
        rule: Some(RuleId(1)),
    };
    assert_eq!(nodes(&closed), Ok(vec![refusal]));
}

#[test]
fn what_cannot_be_asked_or_done_is_refused_with_its_rule() {
    let rate = Rate {
        tokens: 1,
        per_ns: 1,
        burst: 1,
    };
    let source = Network::of_prefix(Ipv4Addr::new(10, 0, 0, 0), 8).unwrap();
    let does = |action| Rule {
        action,
        ..Rule::default()
    };
    let wrong = [
        (asks(Quality::Limit(rate)), "filter OUTPUT"),
        (asks(Quality::SourceZone(ZoneId(0))), "-m owner"),
        (
            asks(Quality::SourceRange(
                Ipv4Addr::LOCALHOST..=Ipv4Addr::LOCALHOST,
            )),
            "-m owner",
        ),
        (
            asks(Quality::Ports {
                which: Which::Either,
                ranges: Vec::new(),
            }),
            "-m owner",
        ),
        (
            Rule {
                source: Test::Not(source),
                ..Rule::default()
            },
            "-m owner",
        ),
        (
            Rule {
                source_ports: Test::Is(PortRange::new(1, 2)),
                ..Rule::default()
            },
            "-m owner",
        ),
        (
            Rule {
                out_ports: [PortId(0)].into_iter().collect(),
                ..Rule::default()
            },
            "-d",
        ),
        (does(Action::Log), "filter OUTPUT"),
        (does(Action::Mark { and: 0, xor: 1 }), "mangle OUTPUT"),
        (does(Action::Nat), "no meaning"),
        (does(Action::Jump(ChainId(1))), "circle"),
    ];
    for (rule, cure) in wrong {
        // The second rule of the second chain.
        let error = nodes(&one_chain(vec![Rule::default(), rule.clone()])).unwrap_err();
        // A circle is found where it comes round.
        let is_circle = cure == "circle";
        assert!(error.rule == RuleId(2) || is_circle, "{error}");
        assert!(error.what.contains(cure), "{error}");
        // If it is never met, it does no harm.
        let never = Rule {
            proto: Test::Is(Protocol::UDP),
            ..rule
        };
        let harmless = nodes(&one_chain(vec![never])).unwrap();
        assert_eq!(harmless.len(), 1, "{harmless:?}");
    }
}

#[test]
fn what_always_holds_takes_no_steps_and_what_follows_a_verdict_neither() {
    let everything = Network::of_prefix(Ipv4Addr::UNSPECIFIED, 0).unwrap();
    let rule = Rule {
        proto: Test::Is(Protocol::TCP),
        source: Test::Is(everything),
        destination: Test::Is(everything),
        source_ports: Test::Is(WIDEST),
        destination_ports: Test::Is(WIDEST),
        action: Action::Accept,
        ..asks(Quality::State(StateSet::of(ConnState::New)))
    };
    let wifi = Rule {
        in_ports: PortSet::EMPTY,
        ..rule.clone()
    };
    let steps = nodes(&one_chain(vec![wifi, rule.clone(), rule])).unwrap();
    let rules: Vec<_> = steps.iter().map(|node| node.rule).collect();
    // Behind it stands only the chain's policy, which nothing leads to.
    assert_eq!(rules, [Some(RuleId(2)), Some(RuleId(4))]);
}

#[test]
fn too_many_steps_are_refused_with_the_rule_that_is_one_too_many() {
    let fits = vec![Rule::default(); MAX_NODES - 1];
    assert_eq!(nodes(&one_chain(fits)).unwrap().len(), MAX_NODES);
    let more = vec![Rule::default(); MAX_NODES];
    let error = nodes(&one_chain(more)).unwrap_err();
    // The chain's policy, which stands after all rules.
    assert_eq!(error.rule, RuleId(1 + MAX_NODES as u32));
    assert!(error.what.contains("4096"), "{error}");
    // Chains that call others twice: 2^40 rules, were they all written out.
    let chains = 40;
    let twice = |to: u32| {
        let jump = Rule {
            action: Action::Jump(ChainId(to)),
            ..Rule::default()
        };
        vec![jump; 2]
    };
    let program = Program {
        chains: (1..chains).map(twice).chain([Vec::new()]).collect(),
        entries: vec![Entry {
            hook: Hook::TproxyOutput,
            chain: ChainId(0),
            policy: Verdict::Accept,
        }],
        ..Program::default()
    };
    nodes(&program).unwrap_err();
}

#[test]
fn a_large_set_is_refused_and_one_of_neighbours_is_short() {
    let set = |of: SetEntries| {
        let by = vec![End::Destination];
        let rule = asks(Quality::Set { set: SetId(0), by });
        let mut program = one_chain(vec![rule]);
        program.sets = vec![IpSet::new(of)];
        nodes(&program)
    };
    let addresses = |step: u32| {
        let all = (0..5000u32).map(|n| Ipv4Addr::from_bits(0x0a00_0000 + n * step));
        SetEntries::Addresses {
            bits: 32,
            entries: all.collect(),
        }
    };
    let error = set(addresses(2)).unwrap_err();
    assert!(error.what.contains("entries"), "{error}");
    assert_eq!(set(addresses(1)).unwrap().len(), 3);
    assert_eq!(
        set(SetEntries::Ports((1000..2000).collect()))
            .unwrap()
            .len(),
        3
    );
}
