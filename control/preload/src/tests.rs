//! The parts that need no program around them.

use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use shm::{Access, Operation, Reply};

use crate::answers::{Original, Shard};
use crate::option::InTproxy;
use crate::{control, descriptors, wishes};

fn endpoint(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

fn original() -> Original {
    Original {
        source: endpoint("10.1.2.3:258"),
        destination: endpoint("192.0.2.1:53"),
    }
}

#[test]
fn ranges_are_cut_where_ours_are() {
    let pieces = |ours, first, last| {
        let pieces = descriptors::pieces(ours, first, last);
        pieces.collect::<Vec<_>>()
    };
    let top = u32::MAX;
    assert_eq!(pieces([-1, -1, -1, -1], 3, top), [(3, top)]);
    assert_eq!(pieces([-1, -1, 5, 6], 3, top), [(3, 4), (7, top)]);
    assert_eq!(pieces([-1, -1, 5, 6], 5, 6), []);
    assert_eq!(pieces([-1, -1, 5, 6], 6, 6), []);
    assert_eq!(pieces([-1, -1, 5, 9], 6, 9), [(6, 8)]);
    assert_eq!(pieces([-1, -1, 5, 9], 9, 11), [(10, 11)]);
    assert_eq!(pieces([-1, -1, 5, 9], 6, 8), [(6, 8)]);
    assert_eq!(pieces([0, 2, 4, 6], 0, 6), [(1, 1), (3, 3), (5, 5)]);
    assert_eq!(pieces([-1, -1, -1, 7], top, top), [(top, top)]);
    assert_eq!(pieces([-1, -1, -1, 7], 9, 3), []);
}

/// Other tests open and close theirs meanwhile.
#[test]
fn open_descriptors_are_found_by_either_way() {
    let file = std::fs::File::open("/dev/null").unwrap();
    let low = file.as_raw_fd();
    let far = rustix::io::fcntl_dupfd_cloexec(&file, 900).unwrap();
    let high = far.as_raw_fd();
    for found in [wishes::listed().unwrap(), wishes::probed()] {
        assert!(found.contains(&low), "{found:?}");
        assert!(found.is_sorted() && found.len() < 500, "{found:?}");
        assert!(!found.contains(&888));
        assert!(found.contains(&high), "{found:?}");
    }
}

#[test]
fn what_a_union_holds_depends_on_the_operation() {
    let bytes = |operation: u32| {
        let mut bytes = [0xa5; 12];
        bytes[..4].copy_from_slice(&operation.to_ne_bytes());
        bytes[4..8].copy_from_slice(&[10, 1, 2, 3]);
        bytes[8..10].copy_from_slice(&[1, 2]);
        InTproxy::new(&bytes)
    };
    let set = |operation| bytes(operation).request(Access::Set, 5);
    let number = u32::from_ne_bytes([10, 1, 2, 3]);
    let foreign = Some(endpoint("10.1.2.3:258").into());
    assert_eq!(set(0).unwrap().version, number);
    assert_eq!(set(1).unwrap().foreign, foreign);
    assert_eq!(set(4).unwrap().flags, number);
    assert_eq!(set(6).unwrap().peer, foreign);
    for bare in [2, 5] {
        let request = set(bare).unwrap();
        let rest = (
            request.foreign,
            request.peer,
            request.flags,
            request.version,
        );
        assert_eq!(rest, (None, None, 0, 0));
    }
    for operation in 0..200 {
        let is_set = matches!(operation, 0..=2 | 4..=6);
        assert_eq!(set(operation).is_ok(), is_set, "{operation}");
        let get = bytes(operation).request(Access::Get, 5);
        assert_eq!(get.is_ok(), matches!(operation, 0 | 3 | 4), "{operation}");
        let refused = [set(operation), get].into_iter().filter_map(Result::err);
        assert!(refused.into_iter().all(|errno| errno == Errno::NOPROTOOPT));
    }
    let short = InTproxy::new(&[1, 0, 0, 0, 10, 1, 2, 3]);
    let request = short.request(Access::Set, 5);
    if cfg!(target_endian = "little") {
        let foreign = Some(endpoint("10.1.2.3:0").into());
        assert_eq!(request.unwrap().foreign, foreign);
    }
}

#[test]
fn an_answer_without_an_address_is_no_crash() {
    let asked = InTproxy::new(&[0xff; 12]);
    let empty = Reply::default();
    let none = asked.answered(Operation::Query, &empty);
    assert_eq!(none, Err(Errno::NOENT));
    let flags = asked.answered(Operation::Flags, &empty).unwrap();
    assert_eq!(flags[..], [255, 255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn the_control_message_is_as_the_page_says() {
    let mut expected = Vec::new();
    expected.extend(28_usize.to_ne_bytes());
    expected.extend(0_i32.to_ne_bytes());
    expected.extend(11273_i32.to_ne_bytes());
    expected.extend([10, 1, 2, 3, 192, 0, 2, 1, 1, 2, 0, 53]);
    assert_eq!(control::message(original())[..], expected);
    assert_eq!(control::place(0, 27), None);
    assert_eq!(control::place(0, 28), Some((0, 28)));
    assert_eq!(control::place(28, 60), Some((32, 60)));
    assert_eq!(control::place(32, 100), Some((32, 64)));
    assert_eq!(control::place(usize::MAX, usize::MAX), None);
}

#[test]
fn an_answer_holds_as_long_as_the_daemon_says() {
    let mut shard = Shard::default();
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    let key = (7, endpoint("10.0.0.1:1"));
    shard.put(key, original(), now, now);
    assert_eq!(shard.len(), 0, "it does not hold at all");
    shard.put(key, original(), now + second, now);
    assert_eq!(shard.get(key, now + second / 2), Some(original()));
    assert_eq!(shard.get((8, key.1), now), None, "of another socket");
    assert_eq!(shard.get((7, endpoint("10.0.0.1:2")), now), None);
    assert_eq!(shard.get(key, now + second), None);
    assert_eq!(shard.len(), 0);
}

#[test]
fn the_cache_is_bounded() {
    let mut shard = Shard::default();
    let (now, second) = (Instant::now(), Duration::from_secs(1));
    for cookie in 0..10_000 {
        let key = (cookie, endpoint("10.0.0.1:1"));
        shard.put(key, original(), now + second, now);
        assert!(shard.len() <= 512);
        assert_eq!(shard.get(key, now), Some(original()), "the newest stays");
    }
    let late = now + second * 2;
    shard.put((0, endpoint("10.0.0.1:1")), original(), late + second, late);
    assert!(shard.len() <= 512);
}
