//! What opens, what does not, and what is said then.

use std::time::Instant;

use super::veth::{config, in_network, pair, region};
use crate::{BindMode, Error, Lane, kernel_has_af_xdp, supports_zero_copy};

#[test]
fn the_kernel_has_the_sockets() {
    assert!(kernel_has_af_xdp().is_ok());
}

#[test]
fn veth_has_no_zero_copy() {
    in_network(|| {
        pair("one", "other");
        let start = Instant::now();
        assert!(!supports_zero_copy("one", 0));
        assert!(!supports_zero_copy("one", 99), "no such queue");
        assert!(!supports_zero_copy("lo", 0));
        assert!(!supports_zero_copy("nowhere", 0));
        assert!(!supports_zero_copy("a-name-that-no-interface-can-have", 0));
        assert!(start.elapsed().as_secs() < 2, "nothing to wait for");
        let mut region = region(64);
        assert!(Lane::open(&mut region, &config("one", BindMode::Copy)).is_ok());
    });
}

#[test]
fn a_region_outlives_a_refused_zero_copy_lane() {
    in_network(|| {
        pair("one", "other");
        pair("next", "after");
        let mut region = region(256);
        let asked = config("one", BindMode::ZeroCopy);
        let refused = Lane::open(&mut region, &asked);
        assert!(
            matches!(&refused, Err(Error::NoZeroCopy { interface }) if interface == "one"),
            "{:?}",
            refused.err()
        );
        assert_eq!(region.ledger([]).free, 256);
        let copy = Lane::open(&mut region, &config("one", BindMode::Copy)).expect("a lane");
        let second = config("next", BindMode::Copy);
        let second = Lane::open_second(&mut region, &second).expect("a lane");
        assert_eq!(
            (copy.mode(), second.mode()),
            (BindMode::Copy, BindMode::Copy)
        );
        assert!(region.ledger([&copy, &second]).is_conserved());
        // Of a registration in copy mode no socket gets zero-copy.
        let refused = Lane::open(&mut region, &config("other", BindMode::ZeroCopy));
        assert!(matches!(refused, Err(Error::NoZeroCopy { .. })));
        assert!(region.ledger([&copy, &second]).is_conserved());
    });
}

#[test]
fn a_queue_has_one_lane() {
    in_network(|| {
        pair("one", "other");
        let (mut ours, mut theirs) = (region(256), region(256));
        let asked = config("one", BindMode::Copy);
        let is_busy = |opened: Result<Lane, Error>| matches!(&opened, Err(Error::Busy { interface, queue: 0 }) if interface == "one");
        for open in [Lane::open_now, Lane::open_second] {
            let lane = Lane::open(&mut ours, &asked).expect("a lane");
            assert!(is_busy(open(&mut ours, &asked)), "in this region");
            assert!(is_busy(open(&mut theirs, &asked)), "in another");
            assert!(ours.ledger([&lane]).is_conserved());
            assert_eq!(theirs.ledger([]).free, 256);
            ours = region(256);
        }
        drop(ours);
        ours = region(256);
        let lane = patient_second(&mut ours);
        for open in [Lane::open_now, Lane::open_second] {
            assert!(is_busy(open(&mut ours, &asked)), "in this region");
            assert!(is_busy(open(&mut theirs, &asked)), "in another");
        }
        assert!(ours.ledger([&lane]).is_conserved());
        assert!(is_busy(Lane::open(&mut theirs, &asked)), "for good");
    });
}

/// The kernel frees a queue some time after its socket was closed.
fn patient_second(region: &mut crate::Region) -> Lane {
    let start = Instant::now();
    loop {
        match Lane::open_second(region, &config("one", BindMode::Copy)) {
            Err(Error::Busy { .. }) if start.elapsed().as_secs() < 5 => std::thread::yield_now(),
            opened => return opened.expect("a lane"),
        }
    }
}

/// A worker that is opened anew must not find its own queues busy.
#[test]
fn a_worker_that_was_closed_makes_room() {
    in_network(|| {
        pair("one", "other");
        for _ in 0..20 {
            let mut first = region(64);
            let lane = Lane::open(&mut first, &config("one", BindMode::Copy));
            drop(lane.expect("a lane"));
            // Its first socket is the region's as well.
            drop(first);
            let mut second = region(64);
            drop(patient_second(&mut second));
        }
    });
}

#[test]
fn what_cannot_be_opened_is_named() {
    in_network(|| {
        pair("one", "other");
        let mut region = region(64);
        for (interface, queue) in [("nowhere", 0), ("one", 99)] {
            let mut asked = config(interface, BindMode::Copy);
            asked.queue = queue;
            for open in [Lane::open_now, Lane::open_second] {
                let error = open(&mut region, &asked)
                    .err()
                    .expect("no lane")
                    .to_string();
                assert!(error.contains(interface), "{error}");
                assert!(error.contains(&format!("queue {queue}")), "{error}");
            }
        }
        assert_eq!(region.ledger([]).free, 64);
        let mut odd = config("one", BindMode::Copy);
        odd.ring = 48;
        assert!(Lane::open_now(&mut region, &odd).is_err());
        assert!(Lane::open_second(&mut region, &odd).is_err());
        assert_eq!(region.ledger([]).free, 64);
    });
}
