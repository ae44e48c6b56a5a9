//! Every reason to drop a frame, provoked, counted, and seen as an example.

use std::collections::HashSet;

use pipeline::{DropReason, EXAMPLE_BYTES, Ingress, Verdict};
use policy::{Action, Hook, NoListener, RejectWith, Rule, Verdict as Policy};
use wire::Endpoint;

use crate::fixture::firewall::{by_box, by_stranger, on_slow_lane, on_stack, on_wire};
use crate::fixture::*;

/// A frame that must be dropped.
struct Case {
    fw: Firewall,
    ingress: Ingress,
    frame: Vec<u8>,
}

fn by_wire(fw: Firewall, frame: Vec<u8>) -> Case {
    Case {
        fw,
        ingress: Ingress::Port(INTRA),
        frame: on_wire(INTRA, frame),
    }
}

fn by_stack(fw: Firewall, frame: Vec<u8>) -> Case {
    Case {
        fw,
        ingress: Ingress::HostPort,
        frame: on_stack(INTER, frame),
    }
}

/// A firewall where these chains stand too.
fn standing(chains: Vec<(Hook, Vec<Rule>, Policy)>) -> Firewall {
    Firewall::of(Setting {
        chains,
        ..Setting::default()
    })
}

/// A redirected SYN with one byte changed.
fn damaged(at: usize, value: u8) -> Case {
    let mut frame = syn(CLIENT, SERVER, 1);
    frame[at] = value;
    by_wire(Firewall::new(), frame)
}

/// The same, behind a correct IP checksum.
fn damaged_ip(at: usize, value: u8) -> Case {
    let mut case = damaged(at, value);
    case.frame = with_ip_checksum(case.frame);
    case
}

/// A frame for each reason that the pipeline itself gives. No `_` arm: a new reason must
/// come with its frame.
fn case(reason: DropReason) -> Option<Case> {
    let syn = || syn(CLIENT, SERVER, 1);
    let new = Firewall::new;
    let case = match reason {
        DropReason::Truncated => by_wire(new(), syn()[..53].to_vec()),
        DropReason::TooManyTags => by_wire(new(), tagged(tagged(tagged(syn(), 1), 2), 3)),
        DropReason::Ipv6 => {
            let mut frame = vec![0; 54];
            (frame[12], frame[13], frame[14]) = (0x86, 0xdd, 0x60);
            by_wire(new(), frame)
        }
        DropReason::NotIp => damaged(13, 0x06),
        DropReason::BadIpHeader => damaged(14, 0x44),
        DropReason::BadIpChecksum => damaged(24, 0xff),
        DropReason::BadTransportHeader => damaged(46, 0x40),
        DropReason::Fragment => damaged_ip(20, 0x20),
        DropReason::Unmarked => Case {
            ingress: Ingress::HostPort,
            ..by_wire(new(), syn())
        },
        DropReason::BadSource => {
            let source = Endpoint::new([127, 0, 0, 1].into(), 1);
            by_wire(new(), crate::fixture::syn(source, SERVER, 1))
        }
        DropReason::BadDestination => {
            let all = Endpoint::new([255, 255, 255, 255].into(), 80);
            by_wire(new(), crate::fixture::syn(CLIENT, all, 1))
        }
        DropReason::Loop => {
            let source = Endpoint::new(OWN_INTRA, 50_000);
            by_wire(new(), crate::fixture::syn(source, SERVER, 1))
        }
        DropReason::NoFlow => by_wire(new(), ack(CLIENT, SERVER, &[b'x'; 500])),
        DropReason::NoFlowFromStack => Case {
            fw: new(),
            ingress: Ingress::HostPort,
            frame: on_stack(INTRA, ack(PROXY, CLIENT, b"x")),
        },
        DropReason::RuleDrop => by_wire(
            Firewall::with_rules(vec![Rule {
                action: Action::Drop,
                ..Rule::default()
            }]),
            syn(),
        ),
        DropReason::ForwardDenied => by_wire(Firewall::with_rules(Vec::new()), syn()),
        DropReason::InputDenied => {
            let fw = standing(vec![input(Vec::new())]);
            by_wire(fw, crate::fixture::syn(CLIENT, PROXY, 1))
        }
        DropReason::OutputDenied => {
            let fw = standing(vec![output(Vec::new())]);
            Case {
                fw,
                ingress: Ingress::HostPort,
                frame: by_box(INTER, crate::fixture::syn(OWN_CLIENT, SERVER, 1)),
            }
        }
        DropReason::RuleReject => {
            let rules = vec![reject(RejectWith::PortUnreachable)];
            by_wire(
                standing(vec![input(rules)]),
                crate::fixture::syn(CLIENT, PROXY, 1),
            )
        }
        DropReason::NotForwarded => {
            let fw = standing(vec![(Hook::FilterForward, Vec::new(), Policy::Accept)]);
            by_wire(fw, udp(&udp_tuple(CLIENT, SERVER), b"x"))
        }
        DropReason::NotTranslated => {
            let nat = Rule {
                action: Action::Nat,
                ..Rule::default()
            };
            let fw = standing(vec![(Hook::NatPrerouting, vec![nat], Policy::Accept)]);
            by_wire(fw, udp(&udp_tuple(CLIENT, SERVER), b"x"))
        }
        DropReason::ZoneDenied => by_wire(
            Firewall::of(Setting {
                zones: closed_zones(),
                ..Setting::default()
            }),
            syn(),
        ),
        DropReason::RulesChanging => {
            let user = policy::Condition {
                negated: false,
                test: policy::Quality::Owner(0),
            };
            let rule = Rule {
                more: vec![user],
                action: Action::Drop,
                ..Rule::default()
            };
            let mut frame = by_box(INTER, crate::fixture::syn(OWN_CLIENT, SERVER, 1));
            // By the tests of other rules.
            frame[11] |= 0x80;
            Case {
                fw: Firewall::of(Setting {
                    chains: vec![(Hook::FilterOutput, vec![rule], Policy::Accept)],
                    owners: 1,
                    ..Setting::default()
                }),
                ingress: Ingress::HostPort,
                frame,
            }
        }
        DropReason::NoListener => {
            let mut rule = redirect(80, PROXY);
            if let Action::Redirect { otherwise, .. } = &mut rule.action {
                *otherwise = NoListener::Drop;
            }
            by_wire(Firewall::with_rules(vec![rule]), syn())
        }
        DropReason::NoLocalAddress => {
            let to_ingress = Action::Redirect {
                addr: None,
                port: Some(1),
                otherwise: NoListener::Reject,
            };
            let fw = Firewall::of(Setting {
                rules: vec![Rule {
                    action: to_ingress,
                    ..Rule::default()
                }],
                first_address: None,
                ..Setting::default()
            });
            by_wire(fw, syn())
        }
        DropReason::ProxyNotLocal => {
            by_wire(Firewall::with_rules(vec![redirect(80, SERVER2)]), syn())
        }
        DropReason::NoPort => {
            let taken = Firewall::with_ports_taken(SERVER2, 1024..=u16::MAX);
            by_wire(taken, syn())
        }
        DropReason::RegistrationBusy => {
            let fw = new();
            // Held off for good.
            std::mem::forget(fw.registrations.hold());
            by_wire(fw, syn())
        }
        DropReason::ForeignTaken => {
            let mut fw = new();
            let other = Endpoint::new(OWN_INTER, 50_099);
            fw.register(&caller());
            fw.register(&tables::Registration {
                local: other,
                owner: OTHER,
                ..caller()
            });
            fw.stack(INTER, crate::fixture::syn(other, SERVER, 1))
                .to_wire(INTER);
            by_stack(fw, crate::fixture::syn(CALLER, SERVER, 1))
        }
        DropReason::Stranger => {
            let mut fw = new();
            fw.register(&over_udp(caller()));
            let frame = udp(&udp_tuple(CALLER, SERVER), b"x");
            fw.stack(INTER, frame.clone()).to_wire(INTER);
            Case {
                fw,
                ingress: Ingress::HostPort,
                frame: by_stranger(INTER, frame),
            }
        }
        DropReason::OwnerGone => {
            let fw = new();
            fw.register(&listener());
            fw.flows.withdraw(OWNER);
            by_wire(fw, crate::fixture::syn(CLIENT, FOREIGN, 1))
        }
        DropReason::TableFull => {
            let mut fw = Firewall::of(Setting {
                capacity: 1,
                ..Setting::default()
            });
            fw.open(CLIENT, SERVER2, 1);
            by_wire(fw, syn())
        }
        DropReason::IcmpNoFlow => {
            let about = crate::fixture::syn(SERVER, CLIENT, 1);
            let error = icmp_error(CLIENT.addr, SERVER.addr, &about, usize::MAX);
            by_wire(new(), error)
        }
        DropReason::NoPortThere => Case {
            fw: new(),
            ingress: Ingress::HostPort,
            frame: on_slow_lane(NOWHERE, syn()),
        },
        // For the one who moves the frames: the worker's tests provoke it.
        DropReason::TxFull => return None,
    };
    Some(case)
}

#[test]
fn every_reason_is_counted_and_leaves_an_example() {
    let mut provoked = HashSet::new();
    for &reason in DropReason::ALL {
        let Some(Case {
            mut fw,
            ingress,
            frame,
        }) = case(reason)
        else {
            continue;
        };
        let before = fw.all_drops();
        fw.now_ns += SECOND;
        let outcome = fw.one(ingress, frame.clone());
        match outcome.verdict {
            Verdict::Drop(said) => assert_eq!(said, reason),
            // Its sender is told: the frame is a drop as well.
            Verdict::Wire(port) => {
                let told = outcome.to_wire(port);
                let is_icmp = told.tuple.proto == wire::Protocol::ICMP;
                assert!(told.flags & RST != 0 || (is_icmp && icmp(&outcome.frame) == (3, 3)));
            }
            Verdict::Host => panic!("{reason:?} went to the stack"),
        }
        assert_eq!(fw.counters.drops(reason), 1, "{reason:?}");
        assert_eq!(fw.all_drops(), before + 1, "{reason:?}");

        let example = fw.examples.take().unwrap_or_else(|| panic!("{reason:?}"));
        assert_eq!(example.reason, reason);
        assert_eq!(example.at_ns, fw.now_ns);
        assert_eq!(example.frame_bytes as usize, frame.len(), "{reason:?}");
        let kept = frame.len().min(EXAMPLE_BYTES);
        assert_eq!(example.head[..kept], frame[..kept], "{reason:?}");
        assert!(fw.examples.take().is_none(), "{reason:?}");
        provoked.insert(reason);
    }
    let missing: Vec<_> = DropReason::ALL
        .iter()
        .filter(|reason| !provoked.contains(reason))
        .collect();
    assert_eq!(missing, [&DropReason::TxFull]);
}

#[test]
fn a_flood_of_drops_does_not_crowd_out_other_examples() {
    let mut fw = Firewall::new();
    for _ in 0..1000 {
        let _ = fw.wire(INTRA, ack(CLIENT, SERVER, b"x"));
        fw.now_ns += 1_000_000;
    }
    let _ = fw.wire(INTRA, echo(CLIENT.addr, SERVER.addr));
    let reasons: Vec<_> = std::iter::from_fn(|| fw.examples.take())
        .map(|example| example.reason)
        .collect();
    let mut want = vec![DropReason::NoFlow; 5];
    want.push(DropReason::ForwardDenied);
    assert_eq!(reasons, want);
    assert_eq!(fw.counters.drops(DropReason::NoFlow), 1000);
}

#[test]
fn names_are_distinct_and_explained() {
    let names: HashSet<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(names.len(), DropReason::ALL.len());
    let explained: HashSet<_> = DropReason::ALL
        .iter()
        .map(|reason| reason.explanation())
        .collect();
    assert_eq!(explained.len(), DropReason::ALL.len());
    assert!(explained.iter().all(|text| !text.is_empty()));
}
