//! Rules that judge: asked about a flow's first packets, remembered, asked again by new rules.

use pipeline::{DropReason, Event, Ingress, Verdict};
use policy::{Action, ConnState, Hook, RejectWith, RuleId, Verdict as Policy};
use wire::{Endpoint, TcpFlags};

use crate::fixture::firewall::on_wire;
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
fn rules_that_only_lead_to_proxies_end_what_they_would_not_lead_any_more() {
    let events =
        |fw: &Firewall| [Event::Rejudged, Event::Revoked].map(|event| fw.counters.events(event));
    let mut fw = Firewall::new();
    shake_hands(&mut fw);
    // Led elsewhere now: it stays where it is. Asked once.
    fw.commit(vec![redirect_from_port(INTRA, 80, PROXY2)]);
    for _ in 0..3 {
        let seen = fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
        assert_eq!(seen.tuple.dst, PROXY);
        fw.stack(INTRA, ack(PROXY, CLIENT, b"y")).to_wire(INTRA);
    }
    assert_eq!((events(&fw), hits(&fw, 0)), ([1, 0], 0));
    // What comes by another port ends nothing.
    fw.commit(vec![redirect_from_port(INTRA, 80, PROXY2)]);
    fw.wire(INTER, ack(CLIENT, SERVER, b"x")).to_stack();
    assert_eq!(events(&fw), [2, 0]);

    fw.commit(Vec::new());
    denied(
        &fw.wire(INTRA, ack(CLIENT, SERVER, b"x")),
        DropReason::NoFlow,
    );
    denied(
        &fw.stack(INTRA, ack(PROXY, CLIENT, b"y")),
        DropReason::NoFlowFromStack,
    );
    assert_eq!(events(&fw), [3, 1]);

    // Zones that close are in force too.
    let mut fw = Firewall::of(Setting {
        zones: open_zones(),
        ..Setting::default()
    });
    shake_hands(&mut fw);
    fw.change(|setting| setting.zones = closed_zones());
    for _ in 0..2 {
        let outcome = fw.wire(INTRA, ack(CLIENT, SERVER, b"x"));
        assert_eq!(outcome.to_wire(INTRA).flags & RST, RST);
    }

    let mut fw = Firewall::of(Setting {
        keep_established: true,
        ..Setting::default()
    });
    shake_hands(&mut fw);
    fw.commit(Vec::new());
    fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
}

/// A worker may still have the rules before those that another has made a flow by.
#[test]
fn a_flow_of_newer_rules_is_not_ended_by_older_ones() {
    for chains in [Vec::new(), vec![input(vec![accept_tproxy()])]] {
        let mut fw = Firewall::of(Setting {
            rules: Vec::new(),
            chains,
            ..Setting::default()
        });
        let flow = tables::NewFlow {
            orig: tables::FlowKey::new(tables::Side::Wire, &tcp_tuple(CLIENT, SERVER)),
            reply: tables::FlowKey::new(tables::Side::Host, &tcp_tuple(PROXY, CLIENT)),
            kind: tables::Kind::Redirect,
            generation: 2,
            owner: tables::OwnerId::NOBODY,
        };
        fw.flows.insert(&flow, fw.now_ns).unwrap();
        fw.wire(INTRA, syn(CLIENT, SERVER, 1)).to_stack();
        assert_eq!(fw.counters.events(Event::Revoked), 0);
        for _ in 0..2 {
            fw.change(|_| {});
        }
        assert!(matches!(
            fw.wire(INTRA, syn(CLIENT, SERVER, 1)).verdict,
            Verdict::Drop(_)
        ));
        assert_eq!(fw.counters.events(Event::Revoked), 1);
    }
}

#[test]
fn another_sender_is_asked_about_for_itself() {
    // By the port: rules against forged sources.
    let from_intra = policy::Rule {
        in_ports: [INTRA].into_iter().collect(),
        ..accept_tproxy()
    };
    let mut fw = standing(vec![input(vec![from_intra])]);
    shake_hands(&mut fw);
    let asked = hits(&fw, 1);
    for _ in 0..3 {
        denied(
            &fw.wire(INTER, ack(CLIENT, SERVER, b"x")),
            DropReason::InputDenied,
        );
        fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
    }
    assert_eq!((hits(&fw, 1), hits(&fw, 3)), (asked, 3));

    // By the address on the link, if rules look at it.
    let mac = |mac| only(policy::Quality::Mac(mac), accept_tproxy());
    let mut fw = standing(vec![input(vec![mac(NEIGHBOUR.0)])]);
    shake_hands(&mut fw);
    let asked = hits(&fw, 1);
    for _ in 0..2 {
        let mut frame = on_wire(INTRA, ack(CLIENT, SERVER, b"x"));
        frame[11] ^= 1;
        let outcome = fw.one(Ingress::Port(INTRA), frame);
        denied(&outcome, DropReason::InputDenied);
        fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
    }
    assert_eq!((hits(&fw, 1), hits(&fw, 3)), (asked, 2));

    // By the user whose socket it is.
    let owned = only(policy::Quality::Owner(1), accept_state(&[New]));
    let mut fw = Firewall::of(Setting {
        chains: vec![output(vec![owned])],
        owners: 2,
        ..Setting::default()
    });
    let mut sent_by = |owners: u8| {
        let datagram = udp(&udp_tuple(OWN_CLIENT, SERVER), b"x");
        let mut frame = firewall::by_box(INTER, datagram);
        frame[11] = owners;
        fw.one(Ingress::HostPort, frame)
    };
    for _ in 0..2 {
        sent_by(0b10).to_wire(INTER);
        denied(&sent_by(0b01), DropReason::OutputDenied);
    }
}

#[test]
fn what_is_kept_is_kept_for_the_port_that_it_came_by() {
    let from_intra = || policy::Rule {
        in_ports: [INTRA].into_iter().collect(),
        ..accept_tproxy()
    };
    let mut fw = Firewall::of(Setting {
        chains: vec![input(vec![from_intra()])],
        keep_established: true,
        ..Setting::default()
    });
    shake_hands(&mut fw);
    fw.change(|_| {});
    denied(
        &fw.wire(INTER, ack(CLIENT, SERVER, b"x")),
        DropReason::InputDenied,
    );
    fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).to_stack();
}

/// `-m limit --limit 1/hour --limit-burst BURST`.
fn limited(burst: u32, rule: policy::Rule) -> policy::Rule {
    let rate = policy::Rate {
        tokens: 1,
        per_ns: 3600 * SECOND,
        burst,
    };
    only(policy::Quality::Limit(rate), rule)
}

#[test]
fn a_limit_counts_packets() {
    // Three packets, the first one among them.
    let mut fw = standing(vec![input(vec![limited(3, accept_tproxy())])]);
    for _ in 0..3 {
        fw.open(CLIENT, SERVER, 1000);
    }
    for _ in 0..2 {
        denied(
            &fw.wire(INTRA, syn(CLIENT, SERVER, 1000)),
            DropReason::InputDenied,
        );
    }

    // The same where a limit only says what is logged.
    let mut fw = standing(vec![input(vec![limited(3, log_all()), accept_tproxy()])]);
    for _ in 0..5 {
        fw.open(CLIENT, SERVER, 1000);
    }
    assert_eq!((hits(&fw, 1), hits(&fw, 2)), (3, 5));

    // What does not come to the limit is not asked about again.
    let early = accept_tproxy();
    let mut fw = standing(vec![input(vec![early, limited(3, log_all())])]);
    for _ in 0..5 {
        fw.open(CLIENT, SERVER, 1000);
    }
    assert_eq!((hits(&fw, 1), hits(&fw, 2)), (1, 0));
}

#[test]
fn new_rules_leave_limits_alone_once() {
    for (denies, passes) in [(true, 0), (false, 6)] {
        let mut fw = standing(vec![input(vec![accept_tproxy()])]);
        shake_hands(&mut fw);
        fw.change(|setting| {
            let mut rules = vec![limited(2, log_all())];
            rules.extend((!denies).then(accept_tproxy));
            setting.chains = vec![input(rules)];
        });
        let gone = (0..6)
            .filter(|_| fw.wire(INTRA, ack(CLIENT, SERVER, b"x")).verdict == Verdict::Host)
            .count();
        assert_eq!(gone, passes);
        // One that is not drawn on, and the burst.
        assert_eq!(hits(&fw, 1), 3, "{denies}");
        assert_eq!(fw.counters.events(Event::Rejudged), 1);
    }
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
