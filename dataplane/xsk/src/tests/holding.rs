//! A region whose frames are all held: every chunk has come out, and each once.

use std::collections::HashSet;
use std::thread::yield_now;
use std::time::{Duration, Instant};

use super::veth::{Numbered, RING, Steered, first, in_network, pair, region, second};
use crate::{CHUNK_BYTES, Frame, Region};

const CHUNKS: u32 = RING * 3;

/// Receives into every chunk of a region and gives none back, twice.
fn hold_all(open: fn(&mut Region, &str) -> Steered) {
    pair("one", "other");
    let mut theirs = region(256);
    let mut sender = first(&mut theirs, "other").lane;
    let mut ours = region(CHUNKS);
    let mut lane = open(&mut ours, "one").lane;
    for _ in 0..2 {
        let mut held: Vec<Frame> = Vec::new();
        let mut batch = Vec::with_capacity(16);
        let end = Instant::now() + Duration::from_secs(20);
        while held.len() < CHUNKS as usize && Instant::now() < end {
            if let Some(mut frame) = theirs.take(60) {
                Numbered::write(theirs.bytes(&mut frame), 0);
                if let Err(back) = sender.put(frame) {
                    theirs.put(back);
                }
            }
            sender.publish().expect("a link");
            sender.reap(&mut theirs);
            lane.take(&mut batch, 16);
            held.append(&mut batch);
            lane.refill(&mut ours);
            let ledger = ours.ledger([&lane]);
            let known = ledger.free + ledger.filled + ledger.sending;
            assert_eq!(known + held.len() as u32, ledger.total);
            yield_now();
        }
        let chunk = |frame: &Frame| frame.offset() / CHUNK_BYTES as usize;
        let chunks: HashSet<usize> = held.iter().map(chunk).collect();
        assert_eq!(chunks, (0..CHUNKS as usize).collect());
        assert_eq!(ours.ledger([&lane]).filled, 0);
        assert_eq!(lane.take(&mut batch, 16), 0);
        held.drain(..).for_each(|frame| ours.put(frame));
        lane.refill(&mut ours);
        assert!(ours.ledger([&lane]).is_conserved());
    }
}

#[test]
fn by_a_lane_of_the_first_registration() {
    in_network(|| hold_all(first));
}

#[test]
fn by_a_lane_of_the_second_registration() {
    in_network(|| hold_all(second));
}
