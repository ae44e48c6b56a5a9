//! Rules that judge: asked about a flow's first packets, remembered, asked again by new rules.

use pipeline::{DropReason, Event, Verdict};
use policy::{Action, ConnState, Hook, RejectWith, RuleId, Verdict as Policy};
use wire::{Endpoint, TcpFlags};

use crate::fixture::*;

const SHELL: Endpoint = Endpoint::new(OWN_INTRA, 22);
use ConnState::{Established, Invalid, New, Related};

fn denied(outcome: &Outcome, reason: DropReason) {
    assert_eq!(outcome.verdict, Verdict::Drop(reason));
}

/// A firewall where these chains stand too.
fn standing(chains: Vec<(Hook, Vec<policy::Rule>, Policy)>) -> Firewall {
    Firewall::of(Setting {
        chains,
        ..Setting::default()
    })
}

/// How often a rule has been asked about and matched.
fn hits(fw: &Firewall, rule: u32) -> u64 {
    fw.view().rule_hits.read(RuleId(rule)).0
}

/// Opens a redirected connection all the way.
fn shake_hands(fw: &mut Firewall) {
    fw.open(CLIENT, SERVER, 1000);
    fw.stack(INTRA, syn_ack(PROXY, CLIENT, 2000, 1001))
        .to_wire(INTRA);
    fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
}

#[test]
fn input_sees_where_a_redirect_leads_and_that_it_is_one() {
    // Rule 1: what it sees; rule 2: -m tproxy.
    let accept = |port| to_port(port, Action::Accept);
    let mut fw = standing(vec![input(vec![accept(PROXY.port)])]);
    fw.open(CLIENT, SERVER, 1);
    let mut fw = standing(vec![input(vec![accept(80)])]);
    denied(
        &fw.wire(INTRA, syn(CLIENT, SERVER, 1)),
        DropReason::InputDenied,
    );
    assert_eq!(fw.flows.counts().live, 0);

    let mut fw = standing(vec![input(vec![accept_tproxy()])]);
    fw.open(CLIENT, SERVER, 1);
    // A direct connection to the proxy is none.
    denied(
        &fw.wire(INTRA, syn(CLIENT, PROXY, 1)),
        DropReason::InputDenied,
    );
    denied(
        &fw.wire(INTRA, syn(CLIENT, SHELL, 1)),
        DropReason::InputDenied,
    );
    // The chain's own counter: what its policy has decided.
    assert_eq!(hits(&fw, 1), 1);
}

#[test]
fn rules_are_asked_once_for_each_state_of_a_direction() {
    let mut fw = standing(vec![
        input(vec![accept_state(&[New]), accept_state(&[Established])]),
        output(vec![accept_state(&[New]), accept_state(&[Established])]),
    ]);
    let counts = |fw: &Firewall| [1, 2, 3, 4].map(|rule| hits(fw, rule));
    fw.open(CLIENT, SERVER, 1000);
    fw.open(CLIENT, SERVER, 1000);
    assert_eq!(counts(&fw), [1, 0, 0, 0]);
    for _ in 0..3 {
        fw.stack(INTRA, syn_ack(PROXY, CLIENT, 2000, 1001))
            .to_wire(INTRA);
        assert_eq!(counts(&fw), [1, 0, 0, 1]);
    }
    for _ in 0..3 {
        fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
        assert_eq!(counts(&fw), [1, 1, 0, 1]);
    }
    assert_eq!(fw.counters.events(Event::Rejudged), 0);
}

#[test]
fn a_denied_reply_is_asked_about_each_time_and_the_flow_stays() {
    let mut fw = standing(vec![output(vec![accept_state(&[New])])]);
    fw.open(CLIENT, SERVER, 1000);
    for _ in 0..3 {
        denied(
            &fw.stack(INTRA, syn_ack(PROXY, CLIENT, 2000, 1001)),
            DropReason::OutputDenied,
        );
    }
    let flow = fw.flow();
    assert_eq!((flow.orig.packets, flow.reply.packets), (1, 0));
    // Rule 0 is the redirect, 1 the state's; then the policies of both chains.
    assert_eq!(hits(&fw, 3), 3);
}

#[test]
fn an_answered_flow_needs_established() {
    let mut fw = standing(vec![input(vec![accept_state(&[New])])]);
    fw.open(CLIENT, SERVER, 1000);
    fw.open(CLIENT, SERVER, 1000);
    fw.stack(INTRA, syn_ack(PROXY, CLIENT, 2000, 1001))
        .to_wire(INTRA);
    denied(
        &fw.wire(INTRA, ack(CLIENT, SERVER, b"x")),
        DropReason::InputDenied,
    );
}

#[test]
fn new_rules_are_asked_about_old_flows_lazily() {
    let mut fw = standing(vec![input(vec![accept_tproxy()])]);
    shake_hands(&mut fw);
    // The same again: asked once for each direction.
    fw.change(|_| {});
    for _ in 0..3 {
        fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
        fw.stack(INTRA, ack(PROXY, CLIENT, b"y")).to_wire(INTRA);
    }
    assert_eq!(fw.counters.events(Event::Rejudged), 2);
    // The first SYN, the answered one, and the new rules.
    fw.change(|setting| setting.chains = vec![input(Vec::new())]);
    for _ in 0..2 {
        denied(
            &fw.wire(INTRA, ack(CLIENT, SERVER, b"x")),
            DropReason::InputDenied,
        );
    }
    // OUTPUT has nothing against it, and nothing is lost when the old rules come back.
    fw.stack(INTRA, ack(PROXY, CLIENT, b"y")).to_wire(INTRA);
    fw.change(|setting| setting.chains = vec![input(vec![accept_tproxy()])]);
    fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
    assert_eq!(fw.flows.counts().live, 1);
}

#[test]
fn what_is_kept_goes_on_under_rules_that_deny_it() {
    let mut fw = Firewall::of(Setting {
        chains: vec![input(vec![accept_tproxy()])],
        keep_established: true,
        ..Setting::default()
    });
    shake_hands(&mut fw);
    fw.change(|setting| {
        setting.rules = Vec::new();
        setting.chains = vec![input(Vec::new()), output(Vec::new())];
    });
    fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
    fw.stack(INTRA, ack(PROXY, CLIENT, b"y")).to_wire(INTRA);
    assert_eq!(fw.counters.events(Event::Rejudged), 0);
    assert_eq!(fw.counters.events(Event::Revoked), 0);
    // New ones are not.
    let other = Endpoint::new(CLIENT.addr, 41_000);
    denied(
        &fw.wire(INTRA, syn(other, SERVER, 1)),
        DropReason::ForwardDenied,
    );
}

#[test]
fn a_direction_that_never_went_is_not_kept() {
    let mut fw = Firewall::of(Setting {
        chains: vec![input(vec![accept_tproxy()])],
        keep_established: true,
        ..Setting::default()
    });
    fw.open(CLIENT, SERVER, 1000);
    fw.change(|setting| setting.chains = vec![output(Vec::new())]);
    denied(
        &fw.stack(INTRA, syn_ack(PROXY, CLIENT, 2000, 1001)),
        DropReason::OutputDenied,
    );
}

#[test]
fn a_redirect_goes_with_its_rule() {
    let mut fw = standing(vec![input(vec![accept_tproxy()])]);
    shake_hands(&mut fw);
    // Led elsewhere now: it stays where it is.
    fw.commit(vec![redirect(80, PROXY2)]);
    let seen = fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
    assert_eq!(seen.tuple.dst, PROXY);
    // A rule for first packets that a later one does not look like.
    let mut syn_only = redirect(80, PROXY);
    syn_only = only(
        policy::Quality::TcpFlags {
            mask: TcpFlags::SYN | TcpFlags::ACK,
            set: TcpFlags::SYN,
        },
        only(policy::Quality::State(policy::StateSet::of(New)), syn_only),
    );
    fw.commit(vec![syn_only]);
    fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
    assert_eq!(fw.counters.events(Event::Revoked), 0);
    for rules in [Vec::new(), vec![drop_to(SERVER.addr), redirect(80, PROXY)]] {
        fw.commit(vec![redirect(80, PROXY)]);
        fw.wire(INTRA, syn(CLIENT, SERVER, 9000)).to_stack();
        fw.commit(rules);
        let outcome = fw.wire(INTRA, ack(CLIENT, SERVER, b"x"));
        assert!(
            matches!(
                outcome.verdict,
                Verdict::Drop(DropReason::ForwardDenied | DropReason::NoFlow)
            ),
            "{outcome:?}"
        );
        assert_eq!(fw.flows.counts().live, 0);
        denied(
            &fw.stack(INTRA, ack(PROXY, CLIENT, b"y")),
            DropReason::NoFlowFromStack,
        );
    }
    assert_eq!(fw.counters.events(Event::Revoked), 2);
}

#[test]
fn zones_that_close_end_what_they_had_let_through() {
    let mut fw = Firewall::of(Setting {
        chains: vec![input(vec![accept_tproxy()])],
        zones: open_zones(),
        ..Setting::default()
    });
    shake_hands(&mut fw);
    fw.change(|setting| setting.zones = closed_zones());
    let outcome = fw.wire(INTRA, ack(CLIENT, SERVER, b"x"));
    assert_eq!(outcome.to_wire(INTRA).flags & RST, RST);
    assert_eq!(fw.counters.drops(DropReason::ZoneDenied), 1);
}

#[test]
fn icmp_errors_are_related_each_time() {
    let mut fw = standing(vec![
        input(vec![
            accept_state(&[New, Established]),
            accept_state(&[Related]),
        ]),
        output(vec![accept_state(&[Established]), accept_state(&[Related])]),
    ]);
    fw.open(CLIENT, SERVER, 1000);
    let answer = fw.stack(INTRA, syn_ack(PROXY, CLIENT, 2000, 1001)).frame;
    let got = syn(CLIENT, PROXY, 1000);
    for count in 1..=2 {
        let error = icmp_error(CLIENT.addr, SERVER.addr, &answer, usize::MAX);
        fw.wire(INTRA, error).to_stack();
        let error = icmp_error(OWN_INTRA, CLIENT.addr, &got, usize::MAX);
        fw.stack(INTRA, error).to_wire(INTRA);
        assert_eq!((hits(&fw, 2), hits(&fw, 4)), (count, count));
    }
    fw.change(|setting| {
        setting.chains = vec![
            input(vec![accept_state(&[New, Established])]),
            output(vec![accept_state(&[New, Established])]),
        ];
    });
    let error = icmp_error(CLIENT.addr, SERVER.addr, &answer, usize::MAX);
    denied(&fw.wire(INTRA, error), DropReason::InputDenied);
    let error = icmp_error(OWN_INTRA, CLIENT.addr, &got, usize::MAX);
    denied(&fw.stack(INTRA, error), DropReason::OutputDenied);
}

#[test]
fn registered_flows_are_asked_about_as_proxies() {
    let accept = || vec![input(vec![accept_tproxy()]), output(vec![accept_tproxy()])];
    let mut fw = standing(accept());
    fw.register(&listener());
    fw.register(&tables::Registration {
        owner: OTHER,
        ..caller()
    });
    fw.wire(INTRA, syn(CLIENT, FOREIGN, 1)).to_stack();
    fw.stack(INTRA, syn_ack(LISTENER, CLIENT, 2, 2))
        .to_wire(INTRA);
    fw.stack(INTER, syn(CALLER, SERVER, 1)).to_wire(INTER);
    fw.wire(INTER, syn_ack(SERVER, CLIENT, 2, 2)).to_stack();
    // To the listener's own address it is an ordinary connection.
    denied(
        &fw.wire(INTRA, syn(CLIENT, LISTENER, 1)),
        DropReason::InputDenied,
    );
    fw.change(|setting| setting.chains = vec![input(Vec::new()), output(Vec::new())]);
    denied(
        &fw.wire(INTRA, ack(CLIENT, FOREIGN, b"x")),
        DropReason::InputDenied,
    );
    denied(
        &fw.stack(INTER, ack(CALLER, SERVER, b"x")),
        DropReason::OutputDenied,
    );
    let other = Endpoint::new(CLIENT.addr, 41_000);
    denied(
        &fw.wire(INTRA, syn(other, FOREIGN, 1)),
        DropReason::InputDenied,
    );
}

#[test]
fn strays_are_told_to_rules_and_dropped_all_the_same() {
    let rules = vec![accept_state(&[Invalid])];
    let accepting = (Hook::FilterForward, rules, Policy::Drop);
    let mut fw = standing(vec![accepting]);
    denied(
        &fw.wire(INTRA, ack(CLIENT, SERVER, b"x")),
        DropReason::NoFlow,
    );
    let about = syn(SERVER, CLIENT, 1);
    let error = icmp_error(CLIENT.addr, SERVER.addr, &about, usize::MAX);
    denied(&fw.wire(INTRA, error), DropReason::IcmpNoFlow);
    assert_eq!(hits(&fw, 1), 2);
    let refusing = (
        Hook::FilterForward,
        vec![reject(RejectWith::TcpReset)],
        Policy::Drop,
    );
    fw.change(|setting| setting.chains = vec![refusing]);
    let told = fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_wire(INTRA);
    assert_eq!(told.flags, RST);
}

#[test]
fn without_rules_that_judge_nothing_is_asked_or_revoked() {
    let mut fw = Firewall::new();
    shake_hands(&mut fw);
    fw.commit(Vec::new());
    fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
    fw.stack(INTRA, ack(PROXY, CLIENT, b"y")).to_wire(INTRA);
    let events = [Event::Rejudged, Event::Revoked].map(|event| fw.counters.events(event));
    assert_eq!(events, [0, 0]);
}

#[test]
fn a_socket_that_is_registered_to_be_marked_is_a_proxys_and_one_reached_directly_is_not() {
    let nothing = Endpoint::new([0, 0, 0, 0].into(), 0);
    let marked = tables::Registration {
        foreign: nothing,
        ..caller()
    };
    for (own, is_marked) in [
        (marked, true),
        (
            tables::Registration {
                local: CALLER,
                ..listener()
            },
            false,
        ),
    ] {
        let mut fw = standing(vec![
            input(vec![accept_tproxy(), accept_state(&[New])]),
            output(vec![accept_state(&[New, Established])]),
        ]);
        fw.register(&own);
        fw.wire(INTER, syn(SERVER, CALLER, 1)).to_stack();
        assert_eq!(hits(&fw, 1), u64::from(is_marked));
        fw.stack(INTER, syn_ack(CALLER, SERVER, 2, 2))
            .to_wire(INTER);
        let later = fw.wire(INTER, ack(SERVER, CALLER, b"x"));
        assert_eq!(later.verdict == Verdict::Host, is_marked, "{later:?}");
    }
}
