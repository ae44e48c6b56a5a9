//! Frames cross from one registration to the other in the chunks that they came in.

use std::thread::yield_now;
use std::time::{Duration, Instant};

use super::veth::{Numbered, Sending, first, in_network, pair, region, second};
use crate::{Frame, Lane, Region};

const FRAMES: u64 = 10_000;
/// Frames on their way at once in one direction: less than any ring on it holds.
const WINDOW: u64 = 32;

/// The far end of a link: sends numbered frames and expects another far end's.
struct Peer {
    lane: Lane,
    sent: u64,
    received: u64,
}

impl Peer {
    fn new(lane: Lane) -> Self {
        Self {
            lane,
            sent: 0,
            received: 0,
        }
    }

    fn send(&mut self, region: &mut Region, arrived: u64) {
        while self.sent < FRAMES && self.sent - arrived < WINDOW {
            let Some(mut frame) = region.take(Numbered::len(self.sent)) else {
                break;
            };
            Numbered::write(region.bytes(&mut frame), self.sent);
            self.lane.put(frame).expect("room for a window");
            self.sent += 1;
        }
        self.settle(region);
    }

    /// Takes what arrives: all of it, in order, stamped by the middle with a chunk's offset.
    fn receive(&mut self, region: &mut Region) -> usize {
        let mut batch = Vec::with_capacity(64);
        let taken = self.lane.take(&mut batch, 64);
        for mut frame in batch {
            if let Some((number, stamp)) = Numbered::read(region.bytes(&mut frame)) {
                assert_eq!(number, self.received);
                assert_ne!(stamp, 0, "it came by way of the middle");
                self.received += 1;
            }
            region.put(frame);
        }
        self.settle(region);
        taken
    }

    fn settle(&mut self, region: &mut Region) {
        self.lane.publish().expect("a link");
        self.lane.reap(region);
        self.lane.refill(region);
    }
}

/// Passes what `from` receives on through `to`, stamped in place.
fn pass(region: &mut Region, from: &mut Lane, to: &mut Lane, sending: &mut Sending) -> usize {
    let mut batch = Vec::with_capacity(64);
    let taken = from.take(&mut batch, 64);
    for mut frame in batch {
        if Numbered::read(region.bytes(&mut frame)).is_none() {
            region.put(frame);
            continue;
        }
        let offset = frame.offset();
        Numbered::stamp(region.bytes(&mut frame), offset as u64);
        sending.add(offset);
        to.put(frame).expect("room for a window");
    }
    to.publish().expect("a link");
    taken
}

/// Takes sent frames back and checks that they are in the chunks that `pass` saw.
fn reap(region: &mut Region, lane: &mut Lane, sending: &mut Sending) {
    let before = region.free.len();
    lane.reap(region);
    for desc in &region.free[before..] {
        sending.done(desc.addr());
    }
    lane.refill(region);
}

fn assert_conserved(region: &Region, lanes: [&Lane; 2]) {
    let ledger = region.ledger(lanes);
    assert!(ledger.is_conserved(), "{ledger:?}");
}

/// Sends through a middle with two lanes, both ways at once.
fn cross(left: impl Fn(&mut Region) -> Lane, right: impl Fn(&mut Region) -> Lane) {
    let mut ends = region(1024);
    let mut west = Peer::new(first(&mut ends, "west-end").lane);
    let mut east = Peer::new(first(&mut ends, "east-end").lane);
    let mut middle = region(512);
    let mut a = left(&mut middle);
    let mut b = right(&mut middle);
    let (mut by_a, mut by_b) = (Sending::default(), Sending::default());
    let mut progress = Instant::now();
    while east.received < FRAMES || west.received < FRAMES {
        west.send(&mut ends, east.received);
        east.send(&mut ends, west.received);
        let mut moved = pass(&mut middle, &mut a, &mut b, &mut by_b);
        moved += pass(&mut middle, &mut b, &mut a, &mut by_a);
        assert_conserved(&middle, [&a, &b]);
        reap(&mut middle, &mut a, &mut by_a);
        reap(&mut middle, &mut b, &mut by_b);
        assert_conserved(&middle, [&a, &b]);
        moved += east.receive(&mut ends) + west.receive(&mut ends);
        assert_conserved(&ends, [&west.lane, &east.lane]);
        if moved > 0 {
            progress = Instant::now();
        }
        assert!(
            progress.elapsed() < Duration::from_secs(20),
            "stuck: {} of {} east, {} of {} west",
            east.received,
            west.sent,
            west.received,
            east.sent,
        );
        yield_now();
    }
    let end = Instant::now() + Duration::from_secs(20);
    while a.sending() + b.sending() > 0 && Instant::now() < end {
        reap(&mut middle, &mut a, &mut by_a);
        reap(&mut middle, &mut b, &mut by_b);
    }
    assert!(by_a.is_empty() && by_b.is_empty());
    for lane in [&a, &b] {
        let counts = lane.counts().expect("counts of the kernel");
        assert_eq!(counts.invalid_descs, 0);
    }
}

#[test]
fn from_the_first_registration_to_the_second_and_back() {
    in_network(|| {
        pair("west-end", "west");
        pair("east-end", "east");
        cross(|r| first(r, "west").lane, |r| second(r, "east").lane);
    });
}

#[test]
fn between_two_lanes_of_the_second() {
    in_network(|| {
        pair("west-end", "west");
        pair("east-end", "east");
        cross(|r| second(r, "west").lane, |r| second(r, "east").lane);
    });
}

#[test]
fn between_two_lanes_of_the_first() {
    in_network(|| {
        pair("west-end", "west");
        pair("east-end", "east");
        cross(|r| first(r, "west").lane, |r| first(r, "east").lane);
    });
}

/// A lane is moved to its worker's thread.
#[test]
fn lanes_and_frames_can_change_threads() {
    fn moves<T: Send>() {}
    moves::<Lane>();
    moves::<Region>();
    moves::<Frame>();
}
