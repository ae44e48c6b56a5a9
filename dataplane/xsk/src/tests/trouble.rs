//! Links that are down and interfaces that go.

use std::time::{Duration, Instant};

use super::veth::{Numbered, RING, Steered, config, first, in_network, ip, pair, region, second};
use crate::{BindMode, Lane, Region};

fn numbered(region: &mut Region, number: u64) -> crate::Frame {
    let mut frame = region.take(Numbered::len(number)).expect("a free chunk");
    Numbered::write(region.bytes(&mut frame), number);
    frame
}

fn a_full_ring_gives_frames_back(open: fn(&mut Region, &str) -> Steered) {
    pair("one", "other");
    let mut region = region(256);
    let mut lane = open(&mut region, "one").lane;
    ip("link set one down");
    for number in 0..u64::from(RING) {
        let frame = numbered(&mut region, number);
        lane.put(frame).expect("room");
        lane.publish().expect("a link that is down is no error");
        assert!(region.ledger([&lane]).is_conserved());
    }
    for _ in 0..10 {
        let frame = numbered(&mut region, 1);
        let offset = frame.offset();
        let back = lane.put(frame).expect_err("no room");
        assert_eq!(back.offset(), offset);
        region.put(back);
        lane.publish().expect("a link that is down is no error");
        lane.reap(&mut region);
        assert!(lane.has_unsent());
        assert_eq!(lane.sending(), RING);
        assert!(region.ledger([&lane]).is_conserved());
    }
    ip("link set one up");
    let end = Instant::now() + Duration::from_secs(20);
    while lane.sending() > 0 && Instant::now() < end {
        lane.publish().expect("a link");
        lane.reap(&mut region);
        assert!(region.ledger([&lane]).is_conserved());
    }
    assert!(!lane.has_unsent());
    let ledger = region.ledger([&lane]);
    assert_eq!((ledger.sending, ledger.free), (0, 256 - RING));
}

#[test]
fn a_full_ring_of_the_first_registration_gives_frames_back() {
    in_network(|| a_full_ring_gives_frames_back(first));
}

#[test]
fn a_full_ring_of_the_second_registration_gives_frames_back() {
    in_network(|| a_full_ring_gives_frames_back(second));
}

/// What the worker does in a round, on a lane whose interface has gone.
fn mourn(region: &mut Region, lane: &mut Lane) {
    let mut batch = Vec::with_capacity(64);
    for number in 0..200 {
        lane.take(&mut batch, 64);
        batch.drain(..).for_each(|frame| region.put(frame));
        let frame = numbered(region, number);
        if let Err(back) = lane.put(frame) {
            region.put(back);
        }
        assert!(lane.publish().is_err(), "the loss is told");
        lane.has_unsent();
        lane.reap(region);
        lane.refill(region);
        lane.counts().expect("the last counts stay readable");
        assert!(region.ledger([&*lane]).is_conserved());
    }
}

#[test]
fn an_interface_of_the_first_registration_goes() {
    in_network(|| {
        pair("one", "other");
        let mut region = region(256);
        let mut lane = first(&mut region, "one").lane;
        ip("link del one");
        mourn(&mut region, &mut lane);
    });
}

#[test]
fn an_interface_of_the_second_registration_goes_and_another_comes() {
    in_network(|| {
        pair("one", "other");
        let mut region = region(512);
        let mut lane = second(&mut region, "one").lane;
        ip("link del one");
        mourn(&mut region, &mut lane);
        // The registration cannot be shared by way of a socket that lost its interface.
        pair("next", "after");
        let next = config("next", BindMode::Copy);
        let mut next = Lane::open_second(&mut region, &next).expect("a lane");
        next.put(numbered(&mut region, 3)).expect("room");
        next.publish().expect("a link");
        let end = Instant::now() + Duration::from_secs(20);
        while next.sending() > 0 && Instant::now() < end {
            next.reap(&mut region);
        }
        assert_eq!(next.sending(), 0);
        assert!(region.ledger([&lane, &next]).is_conserved());
    });
}
