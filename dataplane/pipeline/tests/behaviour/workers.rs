//! Two workers at once, each with the packets of one of two sockets that share an endpoint.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pipeline::{BATCH, Ingress, Verdict};
use tables::Registration;
use wire::{Endpoint, Headers, Protocol};

use crate::fixture::firewall::{by_stranger, on_stack};
use crate::fixture::*;

/// How long two workers are held against each other, for each protocol.
const LONG_ENOUGH: Duration = Duration::from_millis(1500);

/// A frame from the shared endpoint to each of many servers.
fn frames(proto: Protocol, isn: u32) -> Vec<Vec<u8>> {
    let to = |nth| Endpoint::new(SERVER.addr, 1000 + nth as u16);
    let frame = |to| match proto {
        Protocol::TCP => syn(CALLER, to, isn),
        _ => udp(&udp_tuple(CALLER, to), b"x"),
    };
    (0..BATCH).map(|nth| frame(to(nth))).collect()
}

/// Where two workers wait for each other.
struct Meeting {
    came: AtomicU32,
    is_last: AtomicBool,
    began: Instant,
}

impl Meeting {
    /// Waits until both have come here for the `nth` time.
    fn wait(&self, nth: u32) {
        self.came.fetch_add(1, Ordering::AcqRel);
        let end = Instant::now() + Duration::from_secs(20);
        while self.came.load(Ordering::Acquire) < 2 * nth {
            assert!(Instant::now() < end, "the other worker has failed");
            std::thread::yield_now();
        }
    }
}

/// How many frames left, all of them from `shown`; in every round, no flow is there at first.
fn send(fw: &mut Firewall, frames: &[Vec<u8>], shown: Endpoint, meeting: &Meeting) -> usize {
    let mut left = 0;
    for round in 0.. {
        meeting.wait(3 * round + 1);
        for outcome in fw.batch(Ingress::HostPort, frames.to_vec()) {
            if let Verdict::Wire(_) = outcome.verdict {
                let seen = Headers::parse(&outcome.frame).unwrap().tuple;
                assert_eq!(seen.src, shown, "{seen}");
                left += 1;
            }
        }
        if meeting.began.elapsed() > LONG_ENOUGH {
            meeting.is_last.store(true, Ordering::Relaxed);
        }
        meeting.wait(3 * round + 2);
        let is_last = meeting.is_last.load(Ordering::Relaxed);
        let flows: Vec<_> = fw.flows.iter().map(|seen| seen.id).collect();
        for id in flows {
            fw.flows.remove(id, fw.now_ns);
        }
        // Entries rest for a while before they are used again.
        fw.now_ns += 10 * SECOND;
        meeting.wait(3 * round + 3);
        if is_last {
            break;
        }
    }
    left
}

/// Whichever is first, neither leaves as the other.
#[test]
fn two_workers_never_confuse_two_sockets_of_one_endpoint() {
    for proto in [Protocol::TCP, Protocol::UDP] {
        let mut fw = Firewall::new();
        fw.register(&Registration { proto, ..caller() });
        let mut twin = fw.twin();
        let own: Vec<_> = frames(proto, 1000)
            .into_iter()
            .map(|frame| on_stack(INTER, frame))
            .collect();
        let strange: Vec<_> = frames(proto, 5000)
            .into_iter()
            .map(|frame| by_stranger(INTER, frame))
            .collect();
        let meeting = Meeting {
            came: AtomicU32::new(0),
            is_last: AtomicBool::new(false),
            began: Instant::now(),
        };
        let left = std::thread::scope(|scope| {
            let other = scope.spawn(|| send(&mut twin, &strange, CALLER, &meeting));
            let left = send(&mut fw, &own, CLIENT, &meeting);
            (left, other.join().unwrap())
        });
        assert!(left.0 > 0 && left.1 > 0, "{left:?} left");
    }
}
