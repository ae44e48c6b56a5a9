//! Both ends of a ring in plain memory.

use super::{Consumer, Producer, RingMemory};
use crate::sync::{AtomicU32, UnsafeCell};

#[cfg(loom)]
use loom::sync::Arc;
#[cfg(not(loom))]
use std::sync::Arc;

/// A ring in plain memory whose two cursors stand at `start`.
struct Plain {
    producer: AtomicU32,
    consumer: AtomicU32,
    slots: Vec<UnsafeCell<u64>>,
}

// SAFETY: the cells are touched through the two ends only, which keep to their own slots; that
// they do is what these tests are about.
unsafe impl Sync for Plain {}

impl RingMemory for Arc<Plain> {
    type Item = u64;

    fn size(&self) -> u32 {
        self.slots.len() as u32
    }

    fn producer(&self) -> &AtomicU32 {
        &self.producer
    }

    fn consumer(&self) -> &AtomicU32 {
        &self.consumer
    }

    fn slot(&self, cursor: u32) -> &UnsafeCell<u64> {
        &self.slots[cursor as usize % self.slots.len()]
    }
}

fn plain(size: u32, start: u32) -> Arc<Plain> {
    Arc::new(Plain {
        producer: AtomicU32::new(start),
        consumer: AtomicU32::new(start),
        slots: (0..size).map(|_| UnsafeCell::new(u64::MAX)).collect(),
    })
}

fn ends(memory: &Arc<Plain>) -> (Producer<Arc<Plain>>, Consumer<Arc<Plain>>) {
    // SAFETY: each test takes the two ends of its ring once.
    let producer = unsafe { Producer::new(Arc::clone(memory)) };
    // SAFETY: as above.
    let consumer = unsafe { Consumer::new(Arc::clone(memory)) };
    (producer, consumer)
}

/// The items of a range, which for `u64` does not know its length.
fn items(range: std::ops::Range<u64>) -> impl ExactSizeIterator<Item = u64> {
    range.collect::<Vec<u64>>().into_iter()
}

#[cfg(loom)]
mod models {
    use super::{ends, items, plain};

    /// Three items through two slots, over the cursors' wrap: every slot is used again after
    /// it was given back. Loom refuses a touch of a slot that is not ordered with the other
    /// end's, so this fails when one of the two releases or acquires is weakened.
    #[test]
    fn an_item_is_seen_whole_and_once() {
        loom::model(|| {
            let (mut producer, mut consumer) = ends(&plain(2, u32::MAX));
            let kernel = loom::thread::spawn(move || {
                let mut put = 0;
                while put < 3 {
                    match producer.put(items(put..3)) {
                        0 => loom::thread::yield_now(),
                        more => put += more as u64,
                    }
                }
            });
            let mut seen = Vec::new();
            let mut into = [0; 2];
            while seen.len() < 3 {
                match consumer.take(&mut into) {
                    0 => loom::thread::yield_now(),
                    taken => seen.extend_from_slice(&into[..taken]),
                }
            }
            assert_eq!(seen, [0, 1, 2]);
            assert!(kernel.join().is_ok());
        });
    }
}

#[cfg(not(loom))]
mod plain_memory {
    use std::collections::VecDeque;
    use std::sync::atomic::Ordering;

    use proptest::prelude::{Just, Strategy, any, prop_oneof};
    use proptest::{prop_assert_eq, proptest};

    use super::{ends, items, plain};

    #[test]
    fn an_empty_ring_gives_nothing() {
        let (mut producer, mut consumer) = ends(&plain(4, 7));
        assert_eq!(consumer.take(&mut [0; 4]), 0);
        assert_eq!(producer.put(std::iter::empty()), 0);
        assert_eq!(producer.unread(), 0);
        assert_eq!(consumer.take(&mut []), 0);
    }

    #[test]
    fn a_full_ring_takes_nothing() {
        let memory = plain(4, u32::MAX - 1);
        let (mut producer, mut consumer) = ends(&memory);
        assert_eq!(producer.put(items(0..6)), 4, "as many as fit");
        assert_eq!(producer.unread(), 4);
        assert_eq!(producer.put(items(6..7)), 0);
        assert_eq!(memory.producer.load(Ordering::Relaxed), 2, "wrapped");
        let mut into = [0; 6];
        assert_eq!(consumer.take(&mut into), 4);
        assert_eq!(into[..4], [0, 1, 2, 3]);
        assert_eq!(consumer.take(&mut into), 0);
        assert_eq!(producer.put(items(6..11)), 4, "the room is seen at once");
    }

    #[test]
    fn an_end_carries_on_where_the_ring_stands() {
        let memory = plain(4, 9);
        let (mut first, _) = ends(&memory);
        assert_eq!(first.put(items(0..3)), 3);
        drop(first);
        let (mut producer, mut consumer) = ends(&memory);
        assert_eq!(producer.put(items(3..6)), 1);
        let mut into = [0; 4];
        assert_eq!(consumer.take(&mut into), 4);
        assert_eq!(into, [0, 1, 2, 3]);
    }

    #[test]
    fn a_cursor_that_makes_no_sense_moves_nothing() {
        let memory = plain(4, 0);
        let (mut producer, mut consumer) = ends(&memory);
        memory.producer.store(5, Ordering::Relaxed);
        assert_eq!(consumer.take(&mut [0; 4]), 0);
        memory.consumer.store(9, Ordering::Relaxed);
        assert_eq!(producer.unread(), 0_u32.wrapping_sub(9));
        assert_eq!(producer.put(items(0..1)), 0);
    }

    #[test]
    fn two_threads_pass_everything_in_order() {
        const ITEMS: u64 = 200_000;
        let (mut producer, mut consumer) = ends(&plain(64, u32::MAX - 1000));
        let putting = std::thread::spawn(move || {
            let mut next = 0;
            while next < ITEMS {
                let batch = next..ITEMS.min(next + 50);
                match producer.put(items(batch)) {
                    0 => std::thread::yield_now(),
                    put => next += put as u64,
                }
            }
        });
        let mut expected = 0;
        let mut into = [0; 40];
        while expected < ITEMS {
            let taken = consumer.take(&mut into);
            for item in &into[..taken] {
                assert_eq!(*item, expected);
                expected += 1;
            }
            if taken == 0 {
                std::thread::yield_now();
            }
        }
        assert!(putting.join().is_ok());
    }

    /// Anywhere, but often just in front of the wrap.
    fn start() -> impl Strategy<Value = u32> {
        prop_oneof![
            any::<u32>(),
            (0..100_u32).prop_map(|n| u32::MAX - n),
            Just(0)
        ]
    }

    proptest! {
        #[test]
        fn a_ring_is_a_queue(
            start in start(),
            size in (0..6_u32).prop_map(|bits| 1 << bits),
            steps in proptest::collection::vec((any::<bool>(), 0..40_usize), 1..200),
        ) {
            let memory = plain(size, start);
            let (mut producer, mut consumer) = ends(&memory);
            let mut queue = VecDeque::new();
            let mut next = 0_u64;
            for (puts, count) in steps {
                if puts {
                    let put = producer.put(items(next..next + count as u64));
                    prop_assert_eq!(put, count.min(size as usize - queue.len()));
                    queue.extend(next..next + put as u64);
                    next += put as u64;
                } else {
                    let mut into = vec![0; count];
                    let taken = consumer.take(&mut into);
                    prop_assert_eq!(taken, count.min(queue.len()));
                    prop_assert_eq!(&into[..taken], &queue.drain(..taken).collect::<Vec<_>>()[..]);
                }
                prop_assert_eq!(producer.unread() as usize, queue.len());
            }
        }
    }
}
