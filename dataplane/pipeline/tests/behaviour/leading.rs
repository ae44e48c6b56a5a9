//! Whether a redirect may lead where its rule says: listeners and zones.

use pipeline::{DropReason, LogKind, Verdict};
use policy::{Action, Hook, NoListener, Rule, Verdict as Policy};
use wire::{Endpoint, Protocol};

use crate::fixture::*;

fn if_nobody(otherwise: NoListener) -> Rule {
    Rule {
        action: Action::Redirect {
            addr: Some(PROXY.addr),
            port: Some(PROXY.port),
            otherwise,
        },
        ..redirect(80, PROXY)
    }
}

fn firewall(otherwise: NoListener, listening: &[(Protocol, Endpoint)]) -> Firewall {
    Firewall::of(Setting {
        rules: vec![if_nobody(otherwise)],
        listening: listening.to_vec(),
        ..Setting::default()
    })
}

fn verdict(fw: &mut Firewall) -> Verdict {
    fw.wire(INTRA, syn(CLIENT, SERVER, 1)).verdict
}

#[test]
fn a_dead_proxy_never_opens_the_firewall() {
    let anywhere = Endpoint::new([0, 0, 0, 0].into(), PROXY.port);
    let alive = [
        vec![(Protocol::TCP, PROXY)],
        vec![(Protocol::TCP, anywhere)],
    ];
    let dead = [
        vec![],
        vec![(Protocol::UDP, PROXY), (Protocol::TCP, PROXY2)],
    ];
    for listening in &alive {
        for mode in [NoListener::Reject, NoListener::Drop, NoListener::Accept] {
            let mut fw = firewall(mode, listening);
            assert_eq!(verdict(&mut fw), Verdict::Host, "{mode:?}");
        }
    }
    for listening in &dead {
        // The kernel says that nobody listens.
        let mut fw = firewall(NoListener::Reject, listening);
        assert_eq!(verdict(&mut fw), Verdict::Host);
        let mut fw = firewall(NoListener::Drop, listening);
        let none = Verdict::Drop(DropReason::NoListener);
        assert_eq!(verdict(&mut fw), none);
        let mut fw = firewall(NoListener::Accept, listening);
        let denied = Verdict::Drop(DropReason::ForwardDenied);
        assert_eq!(verdict(&mut fw), denied);
        assert_eq!(fw.flows.counts().live, 0);
    }
}

#[test]
fn without_a_listener_the_box_itself_gets_what_was_for_it() {
    let mut fw = firewall(NoListener::Accept, &[]);
    let own = Endpoint::new(OWN_INTRA, 80);
    let seen = fw.wire(INTRA, syn(CLIENT, own, 1)).to_stack();
    assert_eq!(seen.tuple.dst, own);
}

#[test]
fn zones_are_asked_about_redirects_by_rules_before_input() {
    let mut fw = Firewall::of(Setting {
        zones: closed_zones(),
        chains: vec![input(Vec::new())],
        ..Setting::default()
    });
    let outcome = fw.wire(INTRA, syn(CLIENT, SERVER, 7));
    let told = outcome.to_wire(INTRA);
    assert_eq!((told.flags, told.ack), (RST | ACK, 8));
    assert_eq!(fw.counters.drops(DropReason::ZoneDenied), 1);
    assert_eq!(fw.counters.drops(DropReason::InputDenied), 0);
    let record = fw.logs.take().expect("a denial is written down");
    let LogKind::Zone(denial) = record.what else {
        panic!("{record:?}");
    };
    let zones = closed_zones();
    let names = [denial.from, denial.to].map(|zone| zones.name(zone.unwrap()));
    assert_eq!(names, ["intra", "inter"]);
    assert_eq!(zones.service_name(denial.service.unwrap()), "web");
    assert_eq!(record.hook, Some(Hook::TproxyPrerouting));
    assert_eq!(record.in_port, Some(INTRA));
    assert!(fw.logs.take().is_none());
    // What a registration takes, no service is behind.
    fw.register(&listener());
    fw.change(|setting| setting.chains = vec![(Hook::FilterInput, Vec::new(), Policy::Accept)]);
    fw.wire(INTRA, syn(CLIENT, FOREIGN, 1)).to_stack();

    fw.change(|setting| setting.zones = open_zones());
    fw.wire(INTRA, syn(CLIENT, SERVER, 9)).to_stack();
    // A proxy that is no service's, from a zone that lists its services.
    fw.change(|setting| setting.rules = vec![redirect(80, PROXY2)]);
    let other = Endpoint::new(CLIENT.addr, 41_000);
    fw.wire(INTRA, syn(other, SERVER, 9)).to_wire(INTRA);
    assert_eq!(fw.counters.drops(DropReason::ZoneDenied), 2);
}
