//! Random rules that judge: no packet takes a way that the rules in force do not allow, and none
//! that has a flow is denied where they would.

use pipeline::{DropReason, Ingress, Verdict};
use policy::{
    Action, Arrival, ConnState, Hook, Network, Packet, PortRange, Quality, RejectWith, Rule,
    StateSet, Test, Verdict as Policy,
};
use proptest::prelude::*;
use proptest::sample::select;
use tables::{Direction, FlowKey, Hit, Kind, OwnerId, Side};
use wire::{Headers, Protocol, TcpFlags, Transport, Tuple};

use super::sockets::{Sockets, registrations, uses};
use super::{Made, is_plain, made, must_show_foreign, rulesets, run_batch};
use crate::fixture::*;

type Chains = Vec<(Hook, Vec<Rule>, Policy)>;

/// A rule that says the same of every packet which a direction has in one state: what the
/// pipeline remembers must be what it would be told now.
fn rule() -> impl Strategy<Value = Rule> {
    use ConnState::{Established, Invalid, New, Related};
    let proto = select(vec![
        Test::Any,
        Test::Any,
        Test::Is(Protocol::TCP),
        Test::Not(Protocol::UDP),
    ]);
    let source = proptest::option::weighted(0.2, select(vec![CLIENT, SERVER, PROXY]));
    let states = select(vec![
        vec![New],
        vec![Established],
        vec![New, Established],
        vec![Related, Established],
        vec![Invalid],
    ]);
    let action = select(vec![
        Action::Accept,
        Action::Accept,
        Action::Accept,
        Action::Drop,
        Action::Reject(RejectWith::PortUnreachable),
        Action::Reject(RejectWith::TcpReset),
        Action::Log,
    ]);
    (
        proto,
        source,
        proptest::option::weighted(0.2, Just(80_u16)),
        proptest::option::weighted(0.6, states),
        proptest::option::weighted(0.2, any::<bool>()),
        action,
    )
        .prop_map(|(proto, source, port, states, tproxy, action)| {
            let mut rule = Rule {
                proto,
                action,
                ..Rule::default()
            };
            if let Some(source) = source {
                rule.source = Test::Is(Network::new(source.addr, std::net::Ipv4Addr::BROADCAST));
            }
            if let Some(port) = port {
                rule.destination_ports = Test::Is(PortRange::new(port, port));
            }
            if let Some(states) = states {
                let set = states.iter().fold(StateSet::default(), |set, &state| {
                    set.or(StateSet::of(state))
                });
                rule = only(Quality::State(set), rule);
            }
            if let Some(negated) = tproxy {
                rule = only(Quality::Tproxy, rule);
                rule.more.last_mut().unwrap().negated = negated;
            }
            rule
        })
}

fn chains() -> impl Strategy<Value = Chains> {
    let hook = select(vec![
        Hook::FilterInput,
        Hook::FilterOutput,
        Hook::FilterForward,
        Hook::ManglePrerouting,
        Hook::RawOutput,
    ]);
    let policy = select(vec![Policy::Accept, Policy::Accept, Policy::Drop]);
    let chain = (hook, proptest::collection::vec(rule(), 0..4), policy);
    proptest::collection::vec(chain, 0..4).prop_map(|mut chains: Chains| {
        chains.sort_by_key(|(hook, ..)| *hook);
        chains.dedup_by_key(|(hook, ..)| *hook);
        for (hook, rules, _) in &mut chains {
            // There it may not be said.
            if !matches!(
                hook,
                Hook::FilterInput | Hook::FilterOutput | Hook::FilterForward
            ) {
                rules.retain(|rule| !matches!(rule.action, Action::Reject(_)));
            }
            if *hook == Hook::ManglePrerouting {
                // A first packet is not a proxy's yet there, and a later one is.
                let is_about_proxies = |rule: &Rule| {
                    let mut tests = rule.more.iter().map(|more| &more.test);
                    tests.any(|test| *test == Quality::Tproxy)
                };
                rules.retain(|rule| !is_about_proxies(rule));
            }
        }
        chains
    })
}

#[derive(Clone, Debug)]
enum Step {
    Frame(bool, Made),
    Commit(usize, Chains),
    Register(usize),
    Flags(usize, tables::Uses),
    Withdraw(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let frame = any::<bool>()
        .prop_flat_map(|host| made(host).prop_map(move |made| Step::Frame(host, made)));
    prop_oneof![
        24 => frame,
        // Not the first: it tells ports apart.
        2 => (1..rulesets().len(), chains()).prop_map(|(at, chains)| Step::Commit(at, chains)),
        2 => (0..registrations().len()).prop_map(Step::Register),
        1 => (any::<usize>(), uses()).prop_map(|(nth, uses)| Step::Flags(nth, uses)),
        1 => any::<usize>().prop_map(Step::Withdraw),
    ]
}

/// A packet, and the flow that it has now.
struct Case<'a> {
    fw: &'a Firewall,
    made: &'a Made,
    headers: Headers,
    hit: Option<Hit>,
}

impl<'a> Case<'a> {
    fn of(fw: &'a Firewall, made: &'a Made) -> Option<Self> {
        let headers = Headers::parse(&made.frame).ok()?;
        let tuple = match headers.transport {
            Transport::Icmp(icmp) => icmp.embedded.map(Tuple::reversed),
            Transport::Tcp(_) | Transport::Udp | Transport::Other => None,
        };
        let tuple = tuple.unwrap_or(headers.tuple);
        let find = |side| fw.flows.lookup(&FlowKey::new(side, &tuple));
        let hit = if made.way.is_from_stack() {
            find(Side::Host)
        } else {
            find(Side::Wire).or_else(|| find(Side::OneWay))
        };
        Some(Self {
            fw,
            made,
            headers,
            hit,
        })
    }

    fn is_error(&self) -> bool {
        matches!(self.headers.transport, Transport::Icmp(icmp) if icmp.is_error())
    }

    /// What its state may be.
    fn states(&self) -> Vec<ConnState> {
        let has_guard = self.fw.view().policy.guards();
        match &self.hit {
            Some(_) if self.is_error() => vec![ConnState::Related],
            Some(hit) if hit.direction == Direction::Reply || self.fw.flows.is_answered(hit) => {
                vec![ConnState::Established]
            }
            Some(_) => vec![ConnState::New],
            // A datagram to a registered socket itself has no flow.
            None if !has_guard || self.headers.tuple.proto == Protocol::UDP => {
                vec![ConnState::New, ConnState::Invalid]
            }
            None => vec![ConnState::Invalid],
        }
    }

    /// Whether the rules let it pass.
    fn is_allowed(&self) -> bool {
        let tproxy = match &self.hit {
            Some(hit) if hit.flow.kind != Kind::Local => vec![true],
            Some(hit) if hit.flow.owner != OwnerId::NOBODY => vec![true, false],
            Some(_) | None => vec![false],
        };
        self.states().into_iter().any(|state| {
            tproxy
                .iter()
                .any(|&is_tproxy| self.passes(state, is_tproxy))
        })
    }

    fn passes(&self, state: ConnState, is_tproxy: bool) -> bool {
        let view = self.fw.view();
        let mut packet = Packet {
            state,
            is_tproxy,
            ..Packet::first(self.made.port, self.headers.tuple)
        };
        if self.made.way.is_from_stack() {
            packet.in_port = None;
            packet.out_port = Some(self.made.port);
            return view.policy.leave(&mut packet, &mut ()).is_ok();
        }
        let mut to = self.headers.tuple;
        if let Some(hit) = &self.hit {
            if !self.is_led(hit) {
                return false;
            }
            let translated = hit.translated();
            if self.is_error() {
                to.dst.addr = translated.dst.addr;
            } else {
                to = translated;
            }
        }
        if let Arrival::Stop(_) = view.policy.arrive(&mut packet, true, &mut ()) {
            return false;
        }
        packet.tuple = to;
        view.policy.input(&mut packet, &mut ()).is_ok()
    }

    /// Whether the rules would lead the packet's flow to a proxy again, if one has it by them.
    fn is_led(&self, hit: &Hit) -> bool {
        let view = self.fw.view();
        let is_asked = hit.flow.kind == Kind::Redirect
            && hit.direction == Direction::Original
            && !self.is_error()
            && view.policy.judges();
        let mut first = Packet::first(self.made.port, self.headers.tuple);
        if first.tuple.proto == Protocol::TCP {
            first.tcp_flags = Some(TcpFlags::SYN);
        }
        let arrival = view.policy.arrive(&mut first, false, &mut ());
        !is_asked || matches!(arrival, Arrival::Redirect { .. })
    }
}

fn check(fw: &Firewall, made: &Made, verdict: Verdict) -> Result<(), TestCaseError> {
    let Some(case) = Case::of(fw, made) else {
        return Ok(());
    };
    let passed = match verdict {
        Verdict::Host => !made.way.is_from_stack(),
        Verdict::Wire(_) => made.way.is_from_stack(),
        Verdict::Drop(_) => false,
    };
    let is_denied = matches!(
        verdict,
        Verdict::Drop(DropReason::InputDenied | DropReason::OutputDenied)
    );
    let what = || format!("{:?} {:?} {:?}", case.headers, case.hit, case.states());
    if passed && fw.view().policy.judges() {
        prop_assert!(case.is_allowed(), "passed: {}", what());
    }
    if is_denied && case.hit.is_some() {
        // Denied in one of the ways that it may be looked at is enough.
        let is_sure = case.states().len() == 1
            && case.hit.is_some_and(|hit| {
                hit.flow.kind != Kind::Local || hit.flow.owner == OwnerId::NOBODY
            });
        prop_assert!(!is_sure || !case.is_allowed(), "denied: {}", what());
    }
    Ok(())
}

/// Sends a frame alone, so that the flows are known that it met.
fn send(fw: &mut Firewall, host_port: bool, made: &Made) -> Result<(), TestCaseError> {
    let must = must_show_foreign(fw, made);
    // A flow may translate it, and an error of the box's speaks for whom the client believes in.
    let has_flow = Case::of(fw, made).is_some_and(|case| case.hit.is_some() || case.is_error());
    let is_itself = is_plain(fw, made) && !has_flow;
    let ingress = if host_port {
        Ingress::HostPort
    } else {
        Ingress::Port(made.port)
    };
    let outcome = fw.one(ingress, made.frame.clone());
    if let (Verdict::Wire(_), true) = (outcome.verdict, must || is_itself) {
        let sent = Headers::parse(&made.frame).unwrap().tuple;
        let left = Headers::parse(&outcome.frame).unwrap().tuple;
        prop_assert_eq!(left.src == sent.src, is_itself, "{} left as {}", sent, left);
    }
    check(fw, made, outcome.verdict)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_packet_takes_a_way_that_the_rules_in_force_do_not_allow(
        first in chains(), steps in proptest::collection::vec(step(), 1..60),
    ) {
        let mut fw = Firewall::of(Setting {
            rules: vec![redirect(80, PROXY)],
            chains: first,
            capacity: 24,
            ..Setting::default()
        });
        let mut sockets = Sockets::default();
        for step in &steps {
            match step {
                Step::Frame(host_port, made) => send(&mut fw, *host_port, made)?,
                Step::Commit(at, chains) => fw.change(|setting| {
                    setting.rules = rulesets().swap_remove(*at);
                    setting.chains = chains.clone();
                }),
                Step::Register(at) => sockets.register(&fw, registrations().swap_remove(*at)),
                Step::Flags(nth, uses) => sockets.flags(&fw, *nth, *uses),
                Step::Withdraw(nth) => sockets.withdraw(&fw, *nth),
            }
        }
    }

    /// The same promises as without rules that judge, under such rules.
    #[test]
    fn batches_keep_their_promises_under_rules_that_judge(
        first in chains(),
        steps in proptest::collection::vec(super::step(), 1..24),
    ) {
        let mut fw = Firewall::of(Setting { chains: first, capacity: 24, ..Setting::default() });
        for step in &steps {
            match step {
                super::Step::Batch(host_port, frames) => run_batch(&mut fw, *host_port, frames)?,
                super::Step::Commit(at) => fw.commit(rulesets().swap_remove(*at)),
                super::Step::Wait(ns) => fw.now_ns += ns,
                _ => {}
            }
        }
    }
}
