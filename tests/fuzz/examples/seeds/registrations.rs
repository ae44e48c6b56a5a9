//! Files of registrations as daemons write them.

use std::fs;

use fuzz::made_up::{Daemon, ENOUGH, GROUP, USER};
use registry::{Client, FILE, Socket, flags};
use shm::{Access, Operation, Request};

use crate::Put;

const RECORD_BYTES: usize = 256;
/// What one registers: the socket, the foreign endpoint, the peer, the flags.
type Line = (u64, &'static str, Option<&'static str>, u32);

const LISTENER: Line = (1, "203.0.113.5:2121", None, flags::LISTEN);
const CALLER: Line = (
    2,
    "203.0.113.5:0",
    Some("192.0.2.7:80"),
    flags::CONNECT | flags::ONCE,
);
const DATAGRAMS: Line = (3, "203.0.113.6:53", None, flags::LISTEN | flags::UNIDIR);
const ESTABLISHED: Line = (
    4,
    "198.51.100.7:53",
    Some("192.0.2.7:5353"),
    flags::ESTABLISHED,
);
const MARK: Line = (8, "0.0.0.0:0", None, flags::CONNECT);

/// The file after these have registered and the last `gone` of them have closed.
fn file(lines: &[Line], gone: usize) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a folder");
    let mut daemon = Daemon::start(dir.path(), fuzz::alive(), ENOUGH).expect("a registry");
    for &(cookie, foreign, peer, flags) in lines {
        let alive = fuzz::alive()[&cookie];
        let client = Client {
            pid: 77,
            uid: if alive.uid == 0 { 0 } else { alive.uid },
            gids: if alive.uid == USER {
                vec![]
            } else {
                vec![7, GROUP]
            },
            command: "proxy".to_owned(),
        };
        let socket = Socket {
            cookie,
            proto: alive.proto,
            local: alive.local,
            peer: None,
            reuse: true,
            uid: alive.uid,
        };
        let request = Request {
            foreign: foreign.parse().ok(),
            peer: peer.and_then(|peer| peer.parse().ok()),
            flags,
            ..Request::new(Operation::AssignFlags, Access::Set, 3)
        };
        let reply = daemon
            .registry
            .answer(&client, &socket, &request, daemon.now_ns);
        assert_eq!(reply.errno, 0, "{request:?}");
    }
    daemon.close(lines.iter().rev().take(gone).map(|line| line.0));
    daemon.upkeep();
    let mut file = fs::read(dir.path().join(FILE)).expect("the file");
    // The target knows this boot's.
    file.drain(..RECORD_BYTES);
    file
}

pub(crate) fn seeds(put: Put<'_>) {
    let all = [LISTENER, CALLER, DATAGRAMS, ESTABLISHED, MARK];
    let pair = [LISTENER, DATAGRAMS];
    // Before the file: how much room there is, and what is put right.
    let mut with = |name: &str, how: [u8; 2], file: &[u8]| put(name, [&how[..], file].concat());
    with("none", [0, 0], &file(&[], 0));
    with("one", [0, 0xff], &file(&[LISTENER], 0));
    with("all", [0, 0x1b], &file(&all, 0));
    with("as-it-is", [0, 0], &file(&[CALLER], 0));
    with("gone", [0, 0x55], &file(&[DATAGRAMS, CALLER], 1));
    let headed = [&[1; RECORD_BYTES], &file(&[CALLER], 0)[..]].concat();
    with("another-boot", [0x80, 0xff], &headed);
    with("few-registrations", [0x40, 0xff], &file(&pair, 0));
    with("few-endpoints", [0x20, 0xff], &file(&pair, 0));
    with("few-watches", [0x10, 0xff], &file(&pair, 0));
    let mut twice = file(&[LISTENER], 0);
    twice.extend_from_within(..);
    with("one-twice", [0, 0xff], &twice);
    let mut orphan = file(&[CALLER], 0);
    orphan[42] |= 2;
    with("an-orphan", [0, 0xff], &orphan);
    let mut moved = file(&pair, 0);
    moved[52] ^= 1;
    moved[RECORD_BYTES + 24] = 99;
    with("other-sockets", [0, 0xff], &moved);
    let mut torn = file(&pair, 0);
    torn.truncate(RECORD_BYTES + 99);
    with("torn", [0, 0x55], &torn);
}
