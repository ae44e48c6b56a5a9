//! Clients that break the rules.

use std::io::Write;

use protocol::{CLIENT_SOCKET, ErrorKind};
use socket2::Type;
use std::os::fd::AsRawFd;

use crate::conversation::{assert_closed, connect, failure};
use crate::fixture::server;
use crate::namespace::inside;
use crate::proxy::{CHANNEL, Proxy, Raw, bound, record};

const VERSION: u32 = 0;
const GET: u32 = 1;

#[test]
fn a_request_that_is_none_is_answered_and_no_more() {
    inside(|| {
        let (dir, _running) = server();
        let mut raw = Raw::new(dir.path());
        let socket = bound(Type::STREAM);
        let fd = socket.as_raw_fd();
        assert_eq!(raw.call(&record(VERSION, GET, 0, fd, None)), 0);
        for operation in [7, 63, 66, 4711, u32::MAX] {
            let unknown = record(operation, 0, 0, fd, None);
            assert_eq!(raw.call(&unknown), libc::ENOPROTOOPT, "{operation}");
        }
        assert_eq!(raw.call(&record(VERSION, 2, 0, fd, None)), libc::EINVAL);
        let mut reserved = record(VERSION, GET, 0, fd, None);
        reserved[127] = 1;
        assert_eq!(raw.call(&reserved), libc::EINVAL);
        for number in [-1, i32::MIN, i32::MAX, 1 << 20] {
            let nothing = record(VERSION, GET, 0, number, None);
            assert_eq!(raw.call(&nothing), libc::EBADF, "{number}");
        }
        let file = std::fs::File::open("/dev/null").unwrap();
        let no_socket = record(VERSION, GET, 0, file.as_raw_fd(), None);
        assert_eq!(raw.call(&no_socket), libc::ENOTSOCK);
        let unix = record(VERSION, GET, 0, raw.stream.as_raw_fd(), None);
        assert_eq!(raw.call(&unix), libc::EINVAL);
        assert_eq!(raw.call(&record(VERSION, GET, 0, fd, None)), 0);
    });
}

#[test]
fn garbage_cuts_off() {
    inside(|| {
        let (dir, _running) = server();
        let others = Proxy::new(dir.path());
        let no_such_slot = |raw: &Raw| raw.post(1 << 50);
        let not_posted = |raw: &Raw| raw.post(1 << 3);
        let out_of_turn = |raw: &Raw| {
            raw.put_state(2, 9 << 2 | 1);
            raw.post(1 << 2);
        };
        let everything = |raw: &Raw| {
            raw.put(0, &[0xff; 16 * 1024]);
            raw.ring();
        };
        let words = |raw: &Raw| (&raw.stream).write_all(b"x").unwrap();
        let another_channel = |raw: &Raw| (&raw.stream).write_all(CHANNEL).unwrap();
        let half_gone = |raw: &Raw| raw.stream.shutdown(std::net::Shutdown::Write).unwrap();
        let misdeeds: [&dyn Fn(&Raw); 7] = [
            &no_such_slot,
            &not_posted,
            &out_of_turn,
            &everything,
            &words,
            &another_channel,
            &half_gone,
        ];
        let socket = bound(Type::STREAM);
        for (n, misdeed) in misdeeds.iter().enumerate() {
            let mut raw = Raw::new(dir.path());
            let version = record(VERSION, GET, 0, socket.as_raw_fd(), None);
            assert_eq!(raw.call(&version), 0, "{n}");
            misdeed(&raw);
            raw.assert_cut_off();
            others.get(shm::Operation::Version, &socket).unwrap();
        }
    });
}

#[test]
fn random_memory_hurts_nobody_else() {
    inside(|| {
        let (dir, _running) = server();
        let others = Proxy::new(dir.path());
        let socket = bound(Type::STREAM);
        let mut random = fastrand::Rng::with_seed(20);
        for _ in 0..200 {
            let raw = Raw::new(dir.path());
            let mut noise = vec![0; random.usize(1..2000)];
            for _ in 0..random.usize(1..8) {
                random.fill(&mut noise);
                raw.put(random.u64(0..14_000), &noise);
                raw.ring();
            }
            // Or a call of the first slot with nonsense in it.
            let mut record = [0; 128];
            random.fill(&mut record);
            record[..4].copy_from_slice(&random.u32(0..9).to_ne_bytes());
            raw.put(1024 + 64, &record);
            raw.put_state(0, 5);
            raw.post(1);
            others.get(shm::Operation::Version, &socket).unwrap();
        }
    });
}

#[test]
fn nothing_may_follow_the_question() {
    inside(|| {
        let (dir, _running) = server();
        let mut stream = connect(dir.path(), CLIENT_SOCKET);
        stream.write_all(&[CHANNEL, b"{"].concat()).unwrap();
        assert_eq!(failure(&stream).0, ErrorKind::Malformed);
        assert_closed(&stream);
    });
}
