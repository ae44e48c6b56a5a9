//! The table against a naive model, under random operations and from several threads.

#![cfg(not(loom))]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::{HashMap, HashSet};
use proptest::prelude::*;
use tables::{
    Direction, FlowKey, FlowState, FlowTable, Hit, InsertError, Kind, NewFlow, OwnerId, Side,
    Timeouts,
};
use wire::{Endpoint, Protocol, TcpFlags, TcpHeader, Tuple};

fn tuple(n: u16, server: u8) -> Tuple {
    Tuple {
        proto: Protocol::TCP,
        src: Endpoint::new([10, 0, 0, 1].into(), n),
        dst: Endpoint::new([198, 51, 100, server].into(), 80),
    }
}

fn new_flow(orig: u16, server: u8, reply: u16) -> NewFlow {
    let reply = Tuple {
        proto: Protocol::TCP,
        src: Endpoint::new([10, 0, 0, 254].into(), 50080),
        dst: Endpoint::new([10, 0, 0, 1].into(), reply),
    };
    NewFlow {
        orig: FlowKey::new(Side::Wire, &tuple(orig, server)),
        reply: FlowKey::new(Side::Host, &reply),
        kind: Kind::Redirect,
        generation: 7,
        owner: OwnerId::NOBODY,
    }
}

/// The same connection, begun from the other end: by the box.
fn from_box(new: NewFlow) -> NewFlow {
    NewFlow {
        orig: new.reply,
        reply: new.orig,
        ..new
    }
}

/// The highest owner of the table under test; the next one is a stranger.
const OWNERS: u32 = 3;

#[derive(Clone, Debug)]
enum Op {
    Insert {
        orig: u16,
        server: u8,
        reply: u16,
        owner: OwnerId,
        by_box: bool,
        is_adopted: bool,
    },
    Withdraw {
        owner: OwnerId,
    },
    Reinstate {
        owner: OwnerId,
    },
    Remove {
        nth: usize,
    },
    Lookup {
        orig: u16,
        server: u8,
    },
    LookupReply {
        reply: u16,
    },
    Wait {
        ns: u64,
    },
}

fn owner() -> impl Strategy<Value = OwnerId> {
    (0..=OWNERS + 1).prop_map(OwnerId)
}

fn op() -> impl Strategy<Value = Op> {
    // Few names, so that clashes are common.
    prop_oneof![
        8 => (0_u16..12, 0_u8..3, 0_u16..40, owner(), any::<[bool; 2]>())
            .prop_map(|(orig, server, reply, owner, [by_box, is_adopted])| {
                Op::Insert { orig, server, reply, owner, by_box, is_adopted }
            }),
        1 => owner().prop_map(|owner| Op::Withdraw { owner }),
        1 => owner().prop_map(|owner| Op::Reinstate { owner }),
        3 => any::<usize>().prop_map(|nth| Op::Remove { nth }),
        3 => (0_u16..12, 0_u8..3).prop_map(|(orig, server)| Op::Lookup { orig, server }),
        2 => (0_u16..40).prop_map(|reply| Op::LookupReply { reply }),
        1 => (0_u64..200_000_000).prop_map(|ns| Op::Wait { ns }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn behaves_like_two_plain_maps(
        ops in proptest::collection::vec(op(), 1..160), capacity in 1_usize..40, seed: u64,
    ) {
        let table = FlowTable::<2>::new(capacity, OWNERS, seed);
        let mut live: Vec<(NewFlow, Hit)> = Vec::new();
        let mut by_key: HashMap<FlowKey, Direction> = HashMap::new();
        let mut withdrawn: HashSet<OwnerId> = HashSet::new();
        // When places were given back, oldest first.
        let mut resting: VecDeque<u64> = VecDeque::new();
        let mut now_ns = 1;
        for op in ops {
            match op {
                Op::Insert { orig, server, reply, owner, by_box, is_adopted } => {
                    let new = NewFlow { owner, ..new_flow(orig, server, reply) };
                    let new = if by_box { from_box(new) } else { new };
                    let reserve = if by_box { 0 } else { capacity / 16 };
                    let rested = resting.iter().filter(|&&since| now_ns - since >= 100_000_000);
                    let has_room = capacity - live.len() - resting.len() + rested.count() > reserve;
                    let may_own = owner.0 <= OWNERS && !withdrawn.contains(&owner);
                    let made = if is_adopted { table.adopt(&new, now_ns) } else { table.insert(&new, now_ns) };
                    match made {
                        Ok(hit) => {
                            prop_assert!(may_own && has_room);
                            resting.pop_front_if(|since| now_ns - *since >= 100_000_000);
                            let seen = table.snapshot(hit.id).unwrap();
                            let state = if is_adopted { FlowState::Established } else { FlowState::PickedUp };
                            prop_assert_eq!(seen.state, state);
                            prop_assert_eq!((seen.orig.packets, seen.reply.packets), (0, 0));
                            prop_assert_eq!(table.is_answered(&hit), is_adopted);
                            prop_assert_eq!(table.has_carried(&hit), is_adopted);
                            prop_assert_eq!(hit.flow.owner, owner);
                            prop_assert!(!by_key.contains_key(&new.orig));
                            prop_assert!(!by_key.contains_key(&new.reply));
                            prop_assert!(live.iter().all(|(_, other)| other.id != hit.id));
                            by_key.insert(new.orig, Direction::Original);
                            by_key.insert(new.reply, Direction::Reply);
                            live.push((new, hit));
                        }
                        Err(InsertError::Exists(hit)) => {
                            prop_assert!(live.iter().any(|(n, h)| [n.orig, n.reply].contains(&new.orig) && h.id == hit.id));
                        }
                        Err(InsertError::ReplyTaken) => {
                            prop_assert!(!by_key.contains_key(&new.orig));
                            prop_assert!(by_key.contains_key(&new.reply));
                        }
                        Err(InsertError::OwnerGone) => prop_assert!(!may_own),
                        Err(InsertError::Full) => {
                            prop_assert!(!has_room);
                        }
                    }
                }
                Op::Remove { nth } if !live.is_empty() => {
                    let (new, hit) = live.swap_remove(nth % live.len());
                    let gone = table.remove(hit.id, now_ns);
                    prop_assert_eq!(gone.map(|s| s.flow), Some(hit.flow));
                    prop_assert!(table.remove(hit.id, now_ns).is_none(), "removed twice");
                    resting.push_back(now_ns);
                    by_key.remove(&new.orig);
                    by_key.remove(&new.reply);
                }
                Op::Remove { .. } => {}
                Op::Withdraw { owner } => {
                    table.withdraw(owner);
                    if owner != OwnerId::NOBODY && owner.0 <= OWNERS {
                        withdrawn.insert(owner);
                    }
                }
                Op::Reinstate { owner } => {
                    table.reinstate(owner);
                    if live.iter().all(|(new, _)| new.owner != owner) {
                        withdrawn.remove(&owner);
                    }
                }
                Op::Lookup { orig, server } => {
                    let key = FlowKey::new(Side::Wire, &tuple(orig, server));
                    let want = live.iter().find(|(n, _)| [n.orig, n.reply].contains(&key)).map(|(_, h)| h.id);
                    prop_assert_eq!(table.lookup(&key).map(|h| h.id), want);
                    // The same tuple from the other side is nobody's.
                    let forged = FlowKey::new(Side::Host, &tuple(orig, server));
                    prop_assert!(table.lookup(&forged).is_none());
                }
                Op::LookupReply { reply } => {
                    let key = new_flow(0, 0, reply).reply;
                    let mut hits = [None];
                    table.lookup_batch(&[Some(key)], &mut hits);
                    let want = live.iter().find(|(n, _)| [n.orig, n.reply].contains(&key)).map(|(_, h)| h.id);
                    prop_assert_eq!(hits[0].map(|h| h.id), want);
                    prop_assert_eq!(hits[0].map(|h| h.direction), by_key.get(&key).copied());
                }
                Op::Wait { ns } => now_ns += ns,
            }
            for owner in (0..=OWNERS + 1).map(OwnerId) {
                let own = live.iter().filter(|(new, _)| new.owner == owner).count();
                let want = if owner == OwnerId::NOBODY { 0 } else { own };
                prop_assert_eq!(table.owned_by(owner) as usize, want);
                prop_assert_eq!(table.is_withdrawn(owner), withdrawn.contains(&owner));
            }
            let counts = table.counts();
            prop_assert_eq!(counts.live, live.len());
            prop_assert_eq!(counts.resting, resting.len());
            prop_assert_eq!(counts.live + counts.resting + counts.free, counts.capacity);
            prop_assert_eq!(table.iter().count(), live.len());
        }
    }
}

#[test]
fn a_full_table_keeps_every_live_flow_and_refuses_new_ones() {
    let table = FlowTable::<2>::new(5000, 8, 3);
    let late = new_flow(6000, 1, 6000);
    // What comes from the wire may not have the last sixteenth.
    for n in 0..4688 {
        table.insert(&new_flow(n, 1, n), 1).unwrap();
    }
    assert_eq!(table.insert(&late, 1), Err(InsertError::Full));
    for n in 4688..5000 {
        table.insert(&from_box(new_flow(n, 1, n)), 1).unwrap();
    }
    assert_eq!(table.insert(&from_box(late), 1), Err(InsertError::Full));
    for n in 0..5000 {
        assert!(table.lookup(&new_flow(n, 1, n).orig).is_some());
        assert!(table.lookup(&new_flow(n, 1, n).reply).is_some());
    }
    assert_eq!(table.counts().live, 5000);
}

#[test]
fn an_entry_rests_before_another_flow_gets_it() {
    let table = FlowTable::<2>::new(1, 8, 3);
    let old = table.insert(&new_flow(1, 1, 1), 1).unwrap();
    table.remove(old.id, 1000);
    assert_eq!(
        table.insert(&new_flow(2, 1, 2), 2000),
        Err(InsertError::Full)
    );
    let new = table.insert(&new_flow(2, 1, 2), 200_000_000).unwrap();
    assert_ne!(old.id, new.id);
    assert!(table.snapshot(old.id).is_none(), "an old id names nothing");
    assert!(table.remove(old.id, 200_000_001).is_none());
}

fn segment(flags: u8, seq: u32) -> TcpHeader {
    TcpHeader {
        flags: TcpFlags(flags),
        seq,
        ack: 0,
        payload_bytes: 0,
    }
}

#[test]
fn flows_expire_by_their_state_both_directions_at_once() {
    let table = FlowTable::<2>::new(64, 8, 3);
    let timeouts = Timeouts::default();
    let hits: Vec<Hit> = (0..3)
        .map(|n| table.insert(&new_flow(n, 1, n), SECOND).unwrap())
        .collect();
    let reply = |hit: &Hit| Hit {
        direction: Direction::Reply,
        ..*hit
    };
    // One reset, one open, one with a SYN only.
    table.record(
        &reply(&hits[0]),
        SECOND,
        40,
        Some(&segment(TcpFlags::RST, 1)),
    );
    table.record(&hits[1], SECOND, 40, Some(&segment(TcpFlags::SYN, 1)));
    table.record(
        &reply(&hits[1]),
        SECOND,
        40,
        Some(&segment(TcpFlags::SYN | TcpFlags::ACK, 1)),
    );
    let ack = TcpHeader {
        ack: 2,
        ..segment(TcpFlags::ACK, 2)
    };
    table.record(&hits[1], SECOND, 40, Some(&ack));
    table.record(&hits[2], SECOND, 40, Some(&segment(TcpFlags::SYN, 1)));
    let states: Vec<FlowState> = table.iter().map(|s| s.state).collect();
    assert_eq!(
        states,
        [
            FlowState::Closed,
            FlowState::Established,
            FlowState::SynSent
        ]
    );

    let mut cursor = 0;
    let mut gone_at = |seconds: u64| {
        let mut gone = Vec::new();
        table.expire(&mut cursor, 1000, seconds * SECOND, &timeouts, |s| {
            gone.push(s.id)
        });
        gone
    };
    assert_eq!(gone_at(60), []);
    assert_eq!(gone_at(61), [hits[2].id]);
    assert_eq!(gone_at(70), []);
    assert_eq!(gone_at(71), [hits[0].id]);
    assert_eq!(gone_at(7440), []);
    assert_eq!(gone_at(7441), [hits[1].id]);
    for n in 0..3 {
        assert!(table.lookup(&new_flow(n, 1, n).orig).is_none());
        assert!(table.lookup(&new_flow(n, 1, n).reply).is_none());
    }
}

#[test]
fn a_syn_reopens_what_is_over_and_nothing_else() {
    let table = FlowTable::<2>::new(8, 8, 3);
    let hit = table.insert(&new_flow(1, 1, 1), 1).unwrap();
    let reply = Hit {
        direction: Direction::Reply,
        ..hit
    };
    table.record(&hit, 1, 40, Some(&segment(TcpFlags::SYN, 100)));
    assert!(
        !table.is_reopened_by(&hit, 100),
        "a retransmitted SYN is the same connection"
    );
    assert!(
        table.is_reopened_by(&hit, 101),
        "another number is another attempt"
    );
    table.record(
        &reply,
        1,
        40,
        Some(&segment(TcpFlags::SYN | TcpFlags::ACK, 9)),
    );
    table.record(&hit, 1, 40, Some(&segment(TcpFlags::ACK, 101)));
    assert!(
        !table.is_reopened_by(&hit, 999),
        "an open connection is the proxy's to judge"
    );
    table.record(&reply, 1, 40, Some(&segment(TcpFlags::RST, 10)));
    assert!(table.is_reopened_by(&hit, 999));
}

#[test]
fn a_nearly_full_table_hurries_handshakes_and_nothing_else() {
    let table = FlowTable::<2>::new(10, 8, 3);
    let hits: Vec<Hit> = (0..9)
        .map(|n| table.insert(&new_flow(n, 1, n), SECOND).unwrap())
        .collect();
    for hit in &hits {
        table.record(hit, SECOND, 40, Some(&segment(TcpFlags::SYN, 1)));
    }
    let reply = Hit {
        direction: Direction::Reply,
        ..hits[0]
    };
    table.record(
        &reply,
        SECOND,
        40,
        Some(&segment(TcpFlags::SYN | TcpFlags::ACK, 1)),
    );
    let ack = TcpHeader {
        ack: 2,
        ..segment(TcpFlags::ACK, 2)
    };
    table.record(&hits[0], SECOND, 40, Some(&ack));
    let timeouts = Timeouts::default();
    let mut cursor = 0;
    assert_eq!(
        table.expire(&mut cursor, 100, 5 * SECOND, &timeouts, |_| {}),
        0
    );
    assert_eq!(
        table.expire(&mut cursor, 100, 6 * SECOND, &timeouts, |_| {}),
        8
    );
    assert!(
        table.snapshot(hits[0].id).is_some(),
        "an open connection is live"
    );
}

const SECOND: u64 = 1_000_000_000;

/// A table of flows without TCP, `(protocol, is_answered)`, made at second 1.
fn others(kinds: &[(Protocol, bool)], capacity: usize) -> (FlowTable, Vec<Hit>) {
    let table = FlowTable::<2>::new(capacity, 8, 3);
    let make = |(n, &(proto, is_answered)): (u16, &(Protocol, bool))| {
        let of = |key: FlowKey| {
            FlowKey::new(
                key.side(),
                &Tuple {
                    proto,
                    ..key.tuple()
                },
            )
        };
        let new = new_flow(n, 1, n);
        let new = NewFlow {
            orig: of(new.orig),
            reply: of(new.reply),
            ..new
        };
        let hit = table.insert(&new, SECOND).unwrap();
        table.record(&hit, SECOND, 40, None);
        if is_answered {
            let reply = Hit {
                direction: Direction::Reply,
                ..hit
            };
            table.record(&reply, SECOND, 40, None);
        }
        hit
    };
    let hits = std::iter::zip(0.., kinds).map(make).collect();
    (table, hits)
}

#[test]
fn what_nobody_answers_is_soon_forgotten() {
    let kinds = [
        (Protocol::UDP, false),
        (Protocol::UDP, true),
        (Protocol::ICMP, false),
        (Protocol::ICMP, true),
        (Protocol(47), false),
    ];
    let (table, hits) = others(&kinds, 64);
    let (mut cursor, timeouts) = (0, Timeouts::default());
    let mut gone_at = |seconds: u64| {
        let mut gone = Vec::new();
        table.expire(&mut cursor, 1000, seconds * SECOND, &timeouts, |s| {
            gone.push(s.id)
        });
        gone
    };
    assert_eq!(gone_at(30), []);
    assert_eq!(gone_at(31), [hits[0].id, hits[2].id, hits[4].id]);
    assert_eq!(gone_at(60), []);
    assert_eq!(gone_at(61), [hits[3].id]);
    assert_eq!(gone_at(300), []);
    assert_eq!(gone_at(301), [hits[1].id]);
}

#[test]
fn a_nearly_full_table_hurries_what_nobody_answers() {
    let mut kinds = [(Protocol::UDP, false); 9];
    kinds[3] = (Protocol::UDP, true);
    kinds[4] = (Protocol::ICMP, false);
    kinds[5] = (Protocol::ICMP, true);
    let (table, hits) = others(&kinds, 10);
    let (mut cursor, timeouts) = (0, Timeouts::default());
    let mut expire_at = |seconds| {
        let now_ns = seconds * SECOND;
        table.expire(&mut cursor, 100, now_ns, &timeouts, |_| {})
    };
    assert_eq!(expire_at(5), 0);
    assert_eq!(expire_at(6), 7);
    for answered in [3, 5] {
        assert!(table.snapshot(hits[answered].id).is_some());
    }
}

/// Plays segments, `true` for the box's, on an adopted flow that the box has begun, and names
/// the state after each.
fn adopted_states(segments: &[(bool, TcpHeader)]) -> Vec<FlowState> {
    let table = FlowTable::<2>::new(8, 8, 3);
    let hit = table.adopt(&from_box(new_flow(1, 1, 1)), SECOND).unwrap();
    let state = |(is_boxs, header): &(bool, TcpHeader)| {
        let direction = if *is_boxs {
            Direction::Original
        } else {
            Direction::Reply
        };
        table.record(&Hit { direction, ..hit }, SECOND, 40, Some(header));
        table.snapshot(hit.id).unwrap().state
    };
    segments.iter().map(state).collect()
}

#[test]
fn an_adopted_connection_is_open_and_ends_as_others_do() {
    use FlowState as T;
    let at = |flags, seq, ack| TcpHeader {
        ack,
        ..segment(flags, seq)
    };
    let (fin, ack) = (TcpFlags::FIN | TcpFlags::ACK, TcpFlags::ACK);
    let (syn, rst) = (TcpFlags::SYN, TcpFlags::RST);
    let closing = [
        (false, at(ack, 500, 100)),
        (true, at(ack, 100, 500)),
        (false, at(fin, 500, 100)),
        (true, at(fin, 100, 501)),
        (false, at(ack, 501, 101)),
    ];
    let want = [
        T::Established,
        T::Established,
        T::HalfClosed,
        T::Closing,
        T::Closed,
    ];
    assert_eq!(adopted_states(&closing), want);
    // Somebody's SYN, by either side, does not make a handshake of it.
    for is_boxs in [false, true] {
        assert_eq!(
            adopted_states(&[(is_boxs, at(syn, 7, 0))]),
            [T::Established]
        );
    }
    // A reset has to know what the box has sent, as always.
    let resets = [
        ((false, at(rst, 500, 0)), T::Closed),
        ((false, at(rst | ack, 9, 100)), T::Closed),
        ((false, at(rst, 501, 0)), T::Established),
        ((true, at(rst, 9, 0)), T::Closed),
    ];
    for (reset, want) in resets {
        let story = [(true, at(ack, 100, 500)), reset];
        assert_eq!(adopted_states(&story).last(), Some(&want), "{reset:?}");
    }
    assert_eq!(
        adopted_states(&[(false, at(rst, 500, 0))]),
        [T::Established]
    );
}

#[test]
fn an_adopted_flow_lives_as_long_as_an_answered_one() {
    let of = |proto| {
        let turned = |key: FlowKey| {
            FlowKey::new(
                key.side(),
                &Tuple {
                    proto,
                    ..key.tuple()
                },
            )
        };
        let new = new_flow(1, 1, 1);
        from_box(NewFlow {
            orig: turned(new.orig),
            reply: turned(new.reply),
            ..new
        })
    };
    let timeouts = Timeouts::default();
    let ends = [
        (Protocol::TCP, FlowState::Established, 7441),
        (Protocol::UDP, FlowState::Replied, 301),
        (Protocol::ICMP, FlowState::Replied, 61),
    ];
    for (proto, state, seconds) in ends {
        let table = FlowTable::<2>::new(64, 8, 3);
        let hit = table.adopt(&of(proto), SECOND).unwrap();
        assert!(!table.is_reopened_by(&hit, 9));
        let seen = table.snapshot(hit.id).unwrap();
        assert_eq!(seen.state, state);
        assert_eq!(seen.expires_ns(&timeouts), seconds * SECOND);
    }
}

/// Two workers race to insert the same tuples while a third removes and a reader looks:
/// one flow per tuple, never a hit that is another's.
#[test]
fn racing_workers_end_with_one_flow_per_tuple() {
    const NAMES: u16 = 64;
    let table = FlowTable::<2>::new(4096, 8, 5);
    let clock = AtomicU64::new(1);
    let made = AtomicU64::new(0);
    let removed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for worker in 0..2_u16 {
            let (table, clock, made) = (&table, &clock, &made);
            scope.spawn(move || {
                for round in 0..20_000_u32 {
                    let n = (round as u16).wrapping_mul(13) % NAMES;
                    let now_ns = clock.fetch_add(1_000_000, Ordering::Relaxed);
                    let new = new_flow(n, 1, n + worker * NAMES);
                    match table.insert(&new, now_ns) {
                        Ok(_) => {
                            made.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(InsertError::Exists(hit)) => assert_eq!(hit.flow.orig, new.orig),
                        Err(InsertError::ReplyTaken) => panic!("reply names are apart"),
                        Err(InsertError::OwnerGone) => panic!("nobody always has leave"),
                        Err(InsertError::Full) => {}
                    }
                }
            });
        }
        let (table, clock, removed) = (&table, &clock, &removed);
        scope.spawn(move || {
            for round in 0..20_000_u32 {
                let n = (round as u16).wrapping_mul(7) % NAMES;
                if let Some(hit) = table.lookup(&new_flow(n, 1, 0).orig) {
                    assert_eq!(hit.flow.orig.tuple(), tuple(n, 1));
                    if table
                        .remove(hit.id, clock.load(Ordering::Relaxed))
                        .is_some()
                    {
                        removed.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });
    });
    let live = table.counts().live as u64;
    assert_eq!(live, made.into_inner() - removed.into_inner());
    assert_eq!(live, table.iter().count() as u64);
    assert!(live <= u64::from(NAMES));
}
