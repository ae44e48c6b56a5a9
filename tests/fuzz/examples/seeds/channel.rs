//! What clients leave in the memory of their channel, good ones and others.

use crate::Put;

/// Operations as the target numbers them.
const VERSION: u8 = 0;
const ASSIGN: u8 = 1;
const UNASSIGN: u8 = 2;
const QUERY: u8 = 3;
const FLAGS: u8 = 4;
const ALLOC: u8 = 5;
const CONNECT: u8 = 6;
const ASSIGN_FLAGS: u8 = 7;
const ORIGINAL: u8 = 8;

/// How: the bits of a call.
const SET: u8 = 0;
const GET: u8 = 1;
const ASLEEP: u8 = 2;

/// Sockets by their descriptors: TCP at two ports, one that shares an endpoint; UDP; and one
/// that is connected.
const FIRST: u8 = 0;
const SECOND: u8 = 2;
const SHARES: u8 = 16 + 2;
const DATAGRAMS: u8 = 1;
const CONNECTED: u8 = 32 + 4;

/// Foreign endpoints, and with a peer beside them.
const FOREIGN: u8 = 1;
const ANY_PORT: u8 = 2;
const OTHERS: u8 = 3;
const MARK: u8 = 5;
const V6: u8 = 14;
const PEER: u8 = 4 << 4;

/// Flags.
const CONNECTS: u8 = 1;
const LISTENS: u8 = 2;
const ESTABLISHED: u8 = 4;
const UNIDIR: u8 = 0x40;

const SERVE: [u8; 1] = [7];

/// Steps one after another.
struct Script(Vec<u8>);

impl Script {
    const fn new() -> Self {
        Self(Vec::new())
    }

    fn add(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// A call by the rules; not served yet.
    fn post(self, slot: u8, operation: u8, how: u8, fd: u8, flags: u8, ends: u8) -> Self {
        self.add(&[0, slot, operation, how, fd, flags, ends])
    }

    /// The same while the server answers another.
    fn meanwhile(self, slot: u8, operation: u8, fd: u8, ends: u8) -> Self {
        self.add(&[0x80, slot, operation, SET, fd, 0, ends])
    }

    fn serve(self) -> Self {
        self.add(&SERVE)
    }

    /// A call that is served at once, from the first slot.
    fn call(self, operation: u8, how: u8, fd: u8, flags: u8, ends: u8) -> Self {
        self.post(0, operation, how, fd, flags, ends).serve()
    }

    /// A byte of a posted request.
    fn damage(self, slot: u8, at: u8, value: u8) -> Self {
        self.add(&[3, slot, at, value])
    }

    fn posted(self, bits: u64) -> Self {
        self.add(&[5, 0]).add(&bits.to_ne_bytes())
    }

    /// Something on the box.
    fn box_does(self, what: u8, which: u8) -> Self {
        self.add(&[6, what, which])
    }
}

const CLOSES: u8 = 0;
const CLOSES_UNTOLD: u8 = 1;
const MOVES: u8 = 2;
const IS_CONNECTED: u8 = 3;
const FLOW: u8 = 4;
const FLOWS_END: u8 = 5;
const UPKEEP: u8 = 6;
const TIME: u8 = 7;

pub(crate) fn seeds(put: Put<'_>) {
    good_ones(put);
    endings(put);
    hostile_ones(put);
}

fn good_ones(put: Put<'_>) {
    let every = Script::new()
        .call(VERSION, GET, FIRST, 0, 0)
        .call(VERSION, SET, FIRST, 0, 0)
        .call(ASSIGN, SET, FIRST, 0, FOREIGN)
        .call(QUERY, GET, FIRST, 0, 0)
        .call(CONNECT, SET, FIRST, 0, PEER)
        .call(FLAGS, SET, FIRST, CONNECTS, 0)
        .call(FLAGS, GET | ASLEEP, FIRST, 0, 0)
        .box_does(FLOW, 0)
        .box_does(IS_CONNECTED, FIRST)
        .call(FLAGS, GET, FIRST, 0, 0)
        .call(ORIGINAL, GET, FIRST, 0, 0)
        .call(UNASSIGN, SET, FIRST, 0, 0);
    put("every-operation", every.0);
    let at_once = Script::new()
        .post(0, ASSIGN_FLAGS, SET, FIRST, LISTENS, FOREIGN)
        .post(1, ASSIGN_FLAGS, SET, SECOND, CONNECTS, V6 | PEER)
        .post(
            7,
            ASSIGN_FLAGS,
            ASLEEP,
            DATAGRAMS,
            LISTENS | UNIDIR,
            FOREIGN,
        )
        .post(47, ASSIGN, ASLEEP, SHARES, 0, MARK)
        .serve()
        .post(47, QUERY, GET, FIRST, 0, 0)
        .post(1, QUERY, GET, SECOND, 0, 0);
    put("four-threads", at_once.0);
    let ports = Script::new()
        .call(ASSIGN, SET, FIRST, 0, ANY_PORT)
        .call(ALLOC, SET, FIRST, 0, 0)
        .call(ASSIGN, SET, SECOND, 0, ANY_PORT)
        .call(ALLOC, SET, SECOND, 0, 0)
        .call(FLAGS, SET, SECOND, CONNECTS, 0)
        .box_does(FLOW, 2)
        .call(QUERY, GET, SECOND, 0, 0)
        .call(ASSIGN_FLAGS, SET, DATAGRAMS, ESTABLISHED, FOREIGN | PEER);
    put("chosen-ports", ports.0);
    let clashes = Script::new()
        .call(ASSIGN_FLAGS, SET, FIRST, LISTENS, OTHERS)
        .call(ASSIGN_FLAGS, SET, 16, CONNECTS, OTHERS | PEER)
        .call(ASSIGN, SET, 16, 0, OTHERS)
        .call(CONNECT, SET, 16, 0, PEER)
        .call(FLAGS, SET, 16, CONNECTS, 0)
        .call(FLAGS, SET, 16, LISTENS, 0)
        .call(ASSIGN, SET, 6, 0, OTHERS)
        .call(ASSIGN, SET, CONNECTED, 0, FOREIGN)
        .call(ASSIGN, SET, 10, 0, FOREIGN);
    put("clashes-with-another", clashes.0);
}

fn endings(put: Put<'_>) {
    let orphans = Script::new()
        .call(ASSIGN_FLAGS, SET, FIRST, LISTENS, FOREIGN)
        .box_does(FLOW, 0)
        .call(ASSIGN_FLAGS, SET, SECOND, CONNECTS, 6)
        .box_does(FLOW, 2)
        .box_does(CLOSES, FIRST)
        .box_does(UPKEEP, 0)
        .call(ASSIGN_FLAGS, SET, FIRST, LISTENS, FOREIGN)
        .box_does(CLOSES_UNTOLD, SECOND)
        .call(ASSIGN_FLAGS, SET, SHARES, CONNECTS, 6)
        .box_does(FLOWS_END, 0);
    put("orphans", orphans.0);
    let moves = Script::new()
        .call(ASSIGN_FLAGS, SET, FIRST, LISTENS, FOREIGN)
        .box_does(MOVES, 0x40)
        .call(FLAGS, SET, FIRST, CONNECTS, 0)
        .call(ASSIGN, SET, FIRST, 0, FOREIGN)
        .box_does(FLOW, 0)
        .box_does(MOVES, 0x80);
    put("a-socket-that-moves", moves.0);
    let many = (0..14).fold(Script::new(), |script, n| {
        script
            .call(ASSIGN_FLAGS, SET, FIRST, CONNECTS, FOREIGN)
            .call(ASSIGN, SET, n, 0, MARK)
            .box_does(CLOSES, FIRST)
            .box_does(TIME, n)
    });
    put("no-room", many.0);
}

fn hostile_ones(put: Put<'_>) {
    let malformed = Script::new()
        .post(0, QUERY, GET, FIRST, 0, 0)
        .damage(0, 0, 9)
        .post(1, QUERY, GET, FIRST, 0, 0)
        .damage(1, 4, 2)
        .post(2, ASSIGN, SET, FIRST, 0, FOREIGN)
        .damage(2, 120, 1)
        .post(3, ASSIGN, SET, FIRST, 0, FOREIGN)
        .damage(3, 64, 10)
        .post(4, ASSIGN, SET, FIRST, 0, FOREIGN)
        .damage(4, 80, 1)
        .post(5, 0x80 | 9, GET, FIRST, 0, 0)
        .post(6, QUERY, GET, 0xff, 0, 0)
        .post(8, QUERY, GET | 3 << 4, FIRST, 0, 0)
        .post(9, ASSIGN, SET | 3 << 2, FIRST, 0, FOREIGN)
        .post(10, ASSIGN, SET | 3 << 6, FIRST, 0, FOREIGN)
        .post(11, ASSIGN, SET, FIRST, 0, FOREIGN);
    put("malformed", malformed.0);
    let during = Script::new()
        .post(0, ASSIGN, SET, FIRST, 0, FOREIGN)
        .post(1, ASSIGN, SET, SECOND, 0, FOREIGN)
        .post(2, QUERY, GET, FIRST, 0, 0)
        .meanwhile(0, UNASSIGN, FIRST, 0)
        .meanwhile(2, UNASSIGN, SECOND, 0)
        .add(&[0x83, 1, 0, 99])
        .serve()
        .serve();
    put("changes-while-served", during.0);
    let jumps = Script::new()
        .post(0, ASSIGN, SET, FIRST, 0, FOREIGN)
        .post(5, QUERY, GET, FIRST, 0, 0)
        .post(9, QUERY, GET | ASLEEP, FIRST, 0, 0)
        .add(&[4, 5, 2, 1])
        .serve();
    put("a-count-that-jumps", jumps.0);
    let nowhere = Script::new()
        .post(3, ASSIGN, SET, FIRST, 0, FOREIGN)
        .posted(1 << 50 | 1 << 3);
    put("no-such-slot", nowhere.0);
    let unposted = Script::new()
        .call(ASSIGN, SET, FIRST, 0, FOREIGN)
        .posted(u64::MAX >> 16);
    put("all-bits", unposted.0);
    let scribbles = Script::new()
        .post(1, ASSIGN, SET, FIRST, 0, FOREIGN)
        .add(&[2, 0, 8, 4, 9, 9, 9, 9])
        .add(&[5, 7, 0, 1])
        .serve()
        .add(&[5, 3, 1, 1]);
    put("the-whole-memory", scribbles.0);
}
