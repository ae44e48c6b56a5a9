//! Flows that belong to somebody: counted, refused and expired with their owner.

#![cfg(not(loom))]

use std::sync::atomic::{AtomicBool, Ordering};

use tables::{
    Direction, FlowKey, FlowTable, Hit, InsertError, Kind, NewFlow, OwnerId, Side, Timeouts,
};
use wire::{Endpoint, Protocol, Tuple};

const OWNER: OwnerId = OwnerId(1);

fn new_flow(proto: Protocol, n: u16, owner: OwnerId) -> NewFlow {
    let ends = |src: [u8; 4], dst: [u8; 4]| Tuple {
        proto,
        src: Endpoint::new(src.into(), n),
        dst: Endpoint::new(dst.into(), 443),
    };
    NewFlow {
        orig: FlowKey::new(Side::Host, &ends([10, 0, 0, 1], [198, 51, 100, 1])),
        reply: FlowKey::new(Side::Wire, &ends([198, 51, 100, 1], [203, 0, 113, 1])),
        kind: Kind::Connect,
        generation: 1,
        owner,
    }
}

fn expire(table: &FlowTable, now_ns: u64) -> usize {
    let mut cursor = 0;
    table.expire(&mut cursor, 1000, now_ns, &Timeouts::default(), |_| {})
}

#[test]
fn a_withdrawn_owner_keeps_its_connections_and_loses_its_datagrams() {
    let table = FlowTable::<2>::new(16, 3, 3);
    assert!(!table.has_had(OWNER));
    let tcp = new_flow(Protocol::TCP, 1, OWNER);
    let tcp = table.insert(&tcp, 1).unwrap();
    let udp = table.insert(&new_flow(Protocol::UDP, 2, OWNER), 1).unwrap();
    let others = [OwnerId(2), OwnerId::NOBODY];
    for (n, other) in std::iter::zip(3.., others) {
        table.insert(&new_flow(Protocol::UDP, n, other), 1).unwrap();
    }
    assert!(!table.is_orphan(&udp.flow));
    assert_eq!(expire(&table, 2), 0);

    table.withdraw(OWNER);
    assert!(table.is_orphan(&udp.flow));
    assert!(!table.is_orphan(&tcp.flow));
    let late = table.insert(&new_flow(Protocol::TCP, 9, OWNER), 2);
    assert_eq!(late, Err(InsertError::OwnerGone));
    assert_eq!(table.owned_by(OWNER), 2);
    assert_eq!(expire(&table, 3), 1);
    assert!(table.snapshot(udp.id).is_none());
    assert!(table.snapshot(tcp.id).is_some());
    assert_eq!(table.owned_by(OWNER), 1);

    // The number is not free before the last flow has gone.
    table.reinstate(OWNER);
    assert!(table.is_withdrawn(OWNER));
    table.remove(tcp.id, 4);
    assert_eq!(table.owned_by(OWNER), 0);
    assert!(table.has_had(OWNER) && table.has_had(OwnerId(2)));
    assert!(!table.has_had(OwnerId(3)) && !table.has_had(OwnerId::NOBODY));
    table.reinstate(OWNER);
    assert!(!table.is_withdrawn(OWNER) && !table.has_had(OWNER));
    table.insert(&new_flow(Protocol::TCP, 9, OWNER), 5).unwrap();
    assert!(table.has_had(OWNER));
}

#[test]
fn what_stands_in_the_way_is_told_before_the_owner() {
    let table = FlowTable::<2>::new(16, 1, 3);
    let new = new_flow(Protocol::TCP, 1, OWNER);
    let hit = table.insert(&new, 1).unwrap();
    table.withdraw(OWNER);
    assert_eq!(table.insert(&new, 1), Err(InsertError::Exists(hit)));
    let reply_taken = NewFlow {
        orig: new_flow(Protocol::TCP, 2, OWNER).orig,
        ..new
    };
    assert_eq!(table.insert(&reply_taken, 1), Err(InsertError::ReplyTaken));
    let stranger = new_flow(Protocol::TCP, 3, OwnerId(2));
    assert_eq!(table.insert(&stranger, 1), Err(InsertError::OwnerGone));
    assert_eq!(table.counts().live, 1);
}

#[test]
fn answers_to_a_one_way_datagram_leave_by_the_wire() {
    let table = FlowTable::<2>::new(16, 1, 3);
    let new = new_flow(Protocol::UDP, 1, OWNER);
    let one_way = NewFlow {
        orig: FlowKey::new(Side::OneWay, &new.reply.tuple()),
        reply: FlowKey::new(Side::Host, &new.orig.tuple()),
        ..new
    };
    let hit = table.insert(&one_way, 1).unwrap();
    assert_eq!(hit.leaves_by(), Side::Host);
    let reply = Hit {
        direction: Direction::Reply,
        ..hit
    };
    assert_eq!(reply.leaves_by(), Side::Wire);
    // Beside a connection of the same name from the wire.
    let connection = NewFlow {
        orig: new_flow(Protocol::UDP, 2, OWNER).orig,
        ..new
    };
    table.insert(&connection, 1).unwrap();
    assert_eq!(table.owned_by(OWNER), 2);
}

/// Once `withdraw` has returned, no worker makes another flow.
#[test]
fn no_flow_is_made_after_its_owner_was_withdrawn() {
    for round in 0..200_u64 {
        let table = FlowTable::<2>::new(1 << 12, 1, round);
        let withdrawn = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for worker in 0..2_u16 {
                let (table, withdrawn) = (&table, &withdrawn);
                scope.spawn(move || {
                    for n in 0..500 {
                        let was_withdrawn = withdrawn.load(Ordering::SeqCst);
                        let new = new_flow(Protocol::TCP, 1000 * worker + n, OWNER);
                        match table.insert(&new, 1) {
                            Ok(_) => assert!(!was_withdrawn),
                            Err(error) => assert_eq!(error, InsertError::OwnerGone),
                        }
                    }
                });
            }
            std::thread::yield_now();
            table.withdraw(OWNER);
            withdrawn.store(true, Ordering::SeqCst);
        });
        assert_eq!(table.owned_by(OWNER) as usize, table.counts().live);
    }
}
