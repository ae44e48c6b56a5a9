//! What is remembered about the directions of a flow.

#![cfg(not(loom))]

use tables::{Direction, FlowKey, FlowTable, Hit, Kind, NewFlow, OwnerId, Side};
use wire::{Endpoint, Protocol, Tuple};

const SECOND: u64 = 1_000_000_000;

fn new_flow() -> NewFlow {
    let tuple = Tuple {
        proto: Protocol::UDP,
        src: Endpoint::new([192, 168, 1, 10].into(), 40_000),
        dst: Endpoint::new([192, 168, 1, 1].into(), 53),
    };
    NewFlow {
        orig: FlowKey::new(Side::Wire, &tuple),
        reply: FlowKey::new(Side::Host, &tuple.reversed()),
        kind: Kind::Local,
        generation: 1,
        owner: OwnerId::NOBODY,
    }
}

/// Both directions of the only flow.
fn directions(table: &FlowTable) -> [Hit; 2] {
    let new = new_flow();
    [new.orig, new.reply].map(|key| table.lookup(&key).unwrap())
}

#[test]
fn each_direction_has_a_word_of_its_own_that_goes_with_the_flow() {
    let table = FlowTable::<2>::new(1, 0, 7);
    let hit = table.insert(&new_flow(), 1).unwrap();
    let [orig, reply] = directions(&table);
    assert_eq!([orig, reply].map(|hit| table.judged(&hit)), [0, 0]);
    table.set_judged(&orig, 5);
    table.set_judged(&reply, u64::MAX);
    assert_eq!([orig, reply].map(|hit| table.judged(&hit)), [5, u64::MAX]);
    table.remove(hit.id, 2).unwrap();
    // The one place there is, for another flow.
    table.insert(&new_flow(), 2 * SECOND).unwrap();
    let words = directions(&table).map(|hit| table.judged(&hit));
    assert_eq!(words, [0, 0]);
}

#[test]
fn a_flow_is_answered_by_a_packet_of_the_other_direction() {
    let table = FlowTable::<2>::new(1, 0, 7);
    table.insert(&new_flow(), 1).unwrap();
    let [orig, reply] = directions(&table);
    assert_eq!(reply.direction, Direction::Reply);
    let seen = |hit| (table.has_carried(&hit), table.is_answered(&hit));
    assert_eq!((seen(orig), seen(reply)), ((false, false), (false, false)));
    table.record(&orig, 1, 28, None);
    assert_eq!((seen(orig), seen(reply)), ((true, false), (false, true)));
    table.record(&reply, 1, 28, None);
    assert_eq!((seen(orig), seen(reply)), ((true, true), (true, true)));
}
