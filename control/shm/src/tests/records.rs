//! Records: what goes in comes out, and whatever comes out of the memory ends in a value.

use std::net::SocketAddr;

use proptest::prelude::{Strategy, any, prop_oneof};
use proptest::sample::select;
use proptest::{prop_assert_eq, proptest};

use crate::layout::Words;
use crate::{Access, Malformed, Operation, Reply, Request};

/// An endpoint that a record can carry: flow labels have no place in it.
fn endpoint() -> impl Strategy<Value = Option<SocketAddr>> {
    any::<Option<SocketAddr>>().prop_map(|endpoint| {
        endpoint.map(|mut endpoint| {
            if let SocketAddr::V6(v6) = &mut endpoint {
                v6.set_flowinfo(0);
            }
            endpoint
        })
    })
}

fn request() -> impl Strategy<Value = Request> {
    let numbers = any::<(u32, u32, i32, u8, u64, u64)>();
    let what = (
        select(&Operation::ALL[..]),
        select(vec![Access::Set, Access::Get]),
    );
    let ends = (endpoint(), endpoint(), endpoint());
    (what, numbers, ends).prop_map(|((operation, access), numbers, (local, foreign, peer))| {
        let (flags, version, fd, proto, cookie, tag) = numbers;
        Request {
            operation,
            access,
            flags,
            version,
            fd,
            proto,
            cookie,
            tag,
            local,
            foreign,
            peer,
        }
    })
}

fn reply() -> impl Strategy<Value = Reply> {
    let numbers = any::<(i32, u32, u32, u8, u64, u64)>();
    let ends = (endpoint(), endpoint(), endpoint());
    (numbers, ends).prop_map(|(numbers, (local, foreign, peer))| {
        let (errno, flags, version, proto, cookie, tag) = numbers;
        Reply {
            errno,
            flags,
            version,
            proto,
            cookie,
            tag,
            local,
            foreign,
            peer,
        }
    })
}

/// Words of a valid record with a few bytes changed, or any words at all.
fn spoilt(valid: impl Strategy<Value = Words>) -> impl Strategy<Value = Words> {
    let bytes = proptest::collection::vec((0..128_usize, any::<u8>()), 0..4);
    let changed = (valid, bytes).prop_map(|(words, changes)| {
        let mut record: [u8; 128] = bytemuck::cast(words);
        for (at, byte) in changes {
            record[at] = byte;
        }
        bytemuck::cast(record)
    });
    prop_oneof![changed, any::<Words>()]
}

proptest! {
    #[test]
    fn a_request_comes_out_as_it_went_in(request in request()) {
        prop_assert_eq!(Request::parse(request.words()), (request.tag, Ok(request)));
    }

    #[test]
    fn a_reply_comes_out_as_it_went_in(reply in reply()) {
        prop_assert_eq!(Reply::parse(reply.words()), Some(reply));
    }

    /// No byte of a record that is accepted goes unread.
    #[test]
    fn what_is_accepted_as_a_request_is_one(words in spoilt(request().prop_map(|r| r.words()))) {
        if let (_, Ok(request)) = Request::parse(words) {
            prop_assert_eq!(request.words(), words);
        }
    }

    #[test]
    fn what_is_accepted_as_a_reply_is_one(words in spoilt(reply().prop_map(|r| r.words()))) {
        if let Some(reply) = Reply::parse(words) {
            prop_assert_eq!(reply.words(), words);
        }
    }
}

/// The bytes as `docs/shm-protocol.md` has them.
#[test]
fn a_request_lies_in_memory_as_documented() {
    let mut request = Request::new(Operation::AssignFlags, Access::Get, -7);
    request.flags = 0x0102_0304;
    request.version = 0x0506_0708;
    request.proto = 17;
    request.cookie = 0x1112_1314_1516_1718;
    request.tag = 0x2122_2324_2526_2728;
    request.foreign = Some("192.0.2.1:513".parse().unwrap());
    request.peer = Some("[2001:db8::1%9]:7".parse().unwrap());
    let bytes: [u8; 128] = bytemuck::cast(request.words());
    let mut expected = [0; 128];
    expected[0..4].copy_from_slice(&64_u32.to_ne_bytes());
    expected[4..8].copy_from_slice(&1_u32.to_ne_bytes());
    expected[8..12].copy_from_slice(&0x0102_0304_u32.to_ne_bytes());
    expected[12..16].copy_from_slice(&0x0506_0708_u32.to_ne_bytes());
    expected[16..20].copy_from_slice(&(-7_i32).to_ne_bytes());
    expected[20] = 17;
    expected[24..32].copy_from_slice(&0x1112_1314_1516_1718_u64.to_ne_bytes());
    expected[32..40].copy_from_slice(&0x2122_2324_2526_2728_u64.to_ne_bytes());
    expected[64..66].copy_from_slice(&2_u16.to_ne_bytes());
    expected[66..68].copy_from_slice(&513_u16.to_ne_bytes());
    expected[72..76].copy_from_slice(&[192, 0, 2, 1]);
    expected[88..90].copy_from_slice(&10_u16.to_ne_bytes());
    expected[90..92].copy_from_slice(&7_u16.to_ne_bytes());
    expected[92..96].copy_from_slice(&9_u32.to_ne_bytes());
    expected[96..112].copy_from_slice(&[0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(bytes, expected);
}

#[test]
fn a_reply_lies_in_memory_as_documented() {
    let mut reply = Reply::refused(98);
    reply.flags = 0x0102_0304;
    reply.version = 0x0506_0708;
    reply.proto = 6;
    reply.cookie = 0x1112_1314_1516_1718;
    reply.tag = 0x2122_2324_2526_2728;
    reply.local = Some("192.0.2.1:513".parse().unwrap());
    reply.peer = Some("192.0.2.2:514".parse().unwrap());
    let bytes: [u8; 128] = bytemuck::cast(reply.words());
    let mut expected = [0; 128];
    expected[0..4].copy_from_slice(&98_i32.to_ne_bytes());
    expected[4..8].copy_from_slice(&0x0102_0304_u32.to_ne_bytes());
    expected[8..12].copy_from_slice(&0x0506_0708_u32.to_ne_bytes());
    expected[12] = 6;
    expected[16..24].copy_from_slice(&0x1112_1314_1516_1718_u64.to_ne_bytes());
    expected[24..32].copy_from_slice(&0x2122_2324_2526_2728_u64.to_ne_bytes());
    expected[32..34].copy_from_slice(&2_u16.to_ne_bytes());
    expected[34..36].copy_from_slice(&513_u16.to_ne_bytes());
    expected[40..44].copy_from_slice(&[192, 0, 2, 1]);
    expected[80..82].copy_from_slice(&2_u16.to_ne_bytes());
    expected[82..84].copy_from_slice(&514_u16.to_ne_bytes());
    expected[88..92].copy_from_slice(&[192, 0, 2, 2]);
    assert_eq!(bytes, expected);
}

#[test]
fn unknown_numbers_are_named() {
    let of = |change: &dyn Fn(&mut [u8; 128])| {
        let request = Request::new(Operation::Query, Access::Get, 3);
        let mut record: [u8; 128] = bytemuck::cast(request.words());
        change(&mut record);
        Request::parse(bytemuck::cast(record)).1.unwrap_err()
    };
    assert_eq!(of(&|r| r[0] = 63), Malformed::Operation(63));
    assert_eq!(of(&|r| r[4] = 2), Malformed::Access(2));
    assert_eq!(of(&|r| r[21] = 1), Malformed::Reserved);
    assert_eq!(of(&|r| r[127] = 1), Malformed::Reserved);
    assert_eq!(of(&|r| r[40] = 1), Malformed::Endpoint("local"));
    assert_eq!(of(&|r| r[66] = 1), Malformed::Endpoint("foreign"));
    assert_eq!(of(&|r| r[111] = 1), Malformed::Endpoint("peer"));
    assert_eq!(Malformed::Operation(63).errno(), 92, "ENOPROTOOPT");
    assert_eq!(Malformed::Reserved.errno(), 22, "EINVAL");
}
