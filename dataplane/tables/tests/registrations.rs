//! The registrations against a plain list, under random operations and beside a reader.

#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use tables::{Lookup, OwnerId, RegisterError, Registration, RegistrationId, Registrations, Uses};
use wire::{Endpoint, Protocol};

fn local(n: u8) -> Endpoint {
    Endpoint::new([10, 0, 0, 1].into(), 5000 + u16::from(n))
}

fn foreign(n: u8) -> Endpoint {
    Endpoint::new([203, 0, 113, n].into(), 80 * u16::from(n.min(1)))
}

fn peer(n: u8) -> Endpoint {
    Endpoint::new([198, 51, 100, n].into(), 443)
}

fn registration() -> impl Strategy<Value = Registration> {
    // Few names, so that clashes are common; foreign 0 has port 0.
    let uses = prop_oneof![
        Just(Uses::default()),
        Just(Uses::CONNECT),
        Just(Uses::LISTEN),
        Just(Uses::CONNECT.with(Uses::LISTEN)),
        Just(Uses::ESTABLISHED),
        Just(Uses::LISTEN.with(Uses::UNIDIR)),
    ];
    (
        0_u8..4,
        0_u8..4,
        proptest::option::of(0_u8..3),
        uses,
        any::<bool>(),
        0..=OwnerId::MAX,
    )
        .prop_map(|(own, other, toward, uses, udp, owner)| Registration {
            proto: if udp { Protocol::UDP } else { Protocol::TCP },
            local: local(own),
            foreign: foreign(other),
            peer: toward.map(peer),
            uses,
            owner: OwnerId(owner),
        })
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Registration),
    Replace(usize, Registration),
    Remove(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => registration().prop_map(Op::Insert),
        3 => (any::<usize>(), registration()).prop_map(|(nth, new)| Op::Replace(nth, new)),
        2 => any::<usize>().prop_map(Op::Remove),
    ]
}

fn is_reached(of: &Registration) -> bool {
    of.uses.any(Uses::LISTEN.with(Uses::ESTABLISHED)) && of.foreign.port != 0
}

/// What a new registration meets among the others.
fn clash(new: &Registration, others: &[Registration]) -> Option<RegisterError> {
    let same = |other: &&Registration| other.proto == new.proto && other.peer == new.peer;
    if others
        .iter()
        .filter(same)
        .any(|other| other.local == new.local)
    {
        Some(RegisterError::LocalTaken)
    } else if is_reached(new)
        && others
            .iter()
            .filter(same)
            .any(|other| is_reached(other) && other.foreign == new.foreign)
    {
        Some(RegisterError::ForeignTaken)
    } else {
        None
    }
}

/// The one with the exact peer, or else the one without.
fn choose(among: &[Registration], from: Endpoint, fits: impl Fn(&Registration) -> bool) -> Lookup {
    let with = |peer| among.iter().find(|r| r.peer == peer && fits(r));
    with(Some(from))
        .or_else(|| with(None))
        .map_or(Lookup::None, |r| Lookup::Found(*r))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn behaves_like_a_plain_list(
        ops in proptest::collection::vec(op(), 1..60), capacity in 1_usize..12, seed: u64,
    ) {
        let table = Registrations::new(capacity, seed);
        let mut ids: Vec<RegistrationId> = Vec::new();
        let mut list: Vec<Registration> = Vec::new();
        for op in ops {
            match op {
                Op::Insert(new) => {
                    let full = (list.len() == capacity).then_some(RegisterError::Full);
                    let want = clash(&new, &list).or(full);
                    let got = table.insert(&new);
                    prop_assert_eq!(got.err(), want);
                    if let Ok(id) = got {
                        ids.push(id);
                        list.push(new);
                    }
                }
                Op::Replace(nth, new) if !list.is_empty() => {
                    let nth = nth % list.len();
                    let others: Vec<Registration> =
                        list.iter().enumerate().filter(|(at, _)| *at != nth).map(|(_, r)| *r).collect();
                    let got = table.replace(ids[nth], &new);
                    prop_assert_eq!(got.err(), clash(&new, &others));
                    if let Ok(id) = got {
                        prop_assert_eq!(table.replace(ids[nth], &new), Err(RegisterError::Gone));
                        ids[nth] = id;
                        list[nth] = new;
                    }
                }
                Op::Remove(nth) if !list.is_empty() => {
                    let nth = nth % list.len();
                    let id = ids.swap_remove(nth);
                    prop_assert_eq!(table.remove(id), Some(list.swap_remove(nth)));
                    prop_assert_eq!(table.remove(id), None);
                }
                Op::Replace(..) | Op::Remove(_) => {}
            }
            prop_assert_eq!(table.counts(), (list.len(), capacity));
            for proto in [Protocol::TCP, Protocol::UDP] {
                for n in 0..4 {
                    for from in (0..3).map(peer) {
                        let reached = choose(&list, from, |r| {
                            r.proto == proto && is_reached(r) && r.foreign == foreign(n)
                        });
                        prop_assert_eq!(table.reached(proto, from, foreign(n)), reached);
                        let owner =
                            choose(&list, from, |r| r.proto == proto && r.local == local(n));
                        prop_assert_eq!(table.owner(proto, local(n), from), owner);
                    }
                }
            }
        }
    }
}

/// While one registration changes without end, and others come and go, it is never missed.
#[test]
fn a_reader_never_misses_what_is_being_changed() {
    let table = Registrations::new(64, 9);
    let of = |n| Registration {
        proto: Protocol::TCP,
        local: local(0),
        foreign: foreign(n),
        peer: None,
        uses: Uses::CONNECT,
        owner: OwnerId(u32::from(n)),
    };
    let done = AtomicBool::new(false);
    let mut id = table.insert(&of(1)).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut found, mut busy) = (0_u32, 0_u32);
            while !done.load(Ordering::Relaxed) {
                match table.owner(Protocol::TCP, local(0), peer(1)) {
                    Lookup::Found(seen) => {
                        assert!(seen == of(1) || seen == of(2), "{seen:?}");
                        found += 1;
                    }
                    Lookup::None => panic!("missed"),
                    Lookup::Busy => busy += 1,
                }
            }
            (found, busy)
        });
        for round in 0..100_000_u32 {
            id = table.replace(id, &of(1 + (round & 1) as u8)).unwrap();
            let other = Registration {
                local: local(7),
                ..of(3)
            };
            let other = table.insert(&other).unwrap();
            table.remove(other).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        let (found, busy) = reader.join().unwrap();
        assert!(found > 0, "{found} found, {busy} busy");
    });
    assert_eq!(table.counts(), (1, 64));
}

/// Nothing but what the registry has said counts: entries wait for it, orphans have none.
#[test]
fn there_are_any_as_long_as_the_registry_says_so() {
    let table = Registrations::new(8, 9);
    assert!(!table.are_any());
    for (count, are_any) in [(1, true), (2, true), (1, true), (0, false), (1 << 32, true)] {
        table.set_diverted(count);
        assert_eq!(table.are_any(), are_any, "{count}");
    }
}

#[test]
fn what_a_registration_does_follows_from_its_uses() {
    let of = |uses, proto, foreign| Registration {
        proto,
        local: local(1),
        foreign,
        peer: None,
        uses,
        owner: OwnerId(1),
    };
    let told = |uses, proto| {
        let r = of(uses, proto, foreign(1));
        (r.shows_foreign(), r.takes_foreign(), r.is_one_way())
    };
    let (tcp, udp) = (Protocol::TCP, Protocol::UDP);
    let one_way = Uses::LISTEN.with(Uses::UNIDIR);
    assert_eq!(told(Uses::default(), tcp), (false, false, false));
    assert_eq!(told(Uses::CONNECT, tcp), (true, false, false));
    assert_eq!(told(Uses::LISTEN, udp), (false, true, false));
    // What is for datagrams alone is nothing for connections.
    assert_eq!(told(Uses::ESTABLISHED, udp), (true, true, false));
    assert_eq!(told(Uses::ESTABLISHED, tcp), (false, false, false));
    assert_eq!(told(one_way, udp), (false, true, true));
    assert_eq!(told(one_way, tcp), (false, true, false));
    assert_eq!(told(Uses::UNIDIR, udp), (false, false, false));
    let nowhere = Endpoint::new([0, 0, 0, 0].into(), 0);
    let marked = of(Uses::CONNECT.with(Uses::LISTEN), udp, nowhere);
    assert!(marked.is_mark_only() && !marked.shows_foreign() && !marked.takes_foreign());
}
