//! The log: its latest entries, and those who follow it.

mod conversation;
mod fixture;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use conversation::{assert_closed, connect, failure, reply};
use fixture::server;
use pipeline::DropReason;
use protocol::{CONTROL_SOCKET, ErrorKind, LogEntry, LogKind, Reply};

/// How long something may take that takes no time.
const SOON: Duration = Duration::from_secs(10);
const SECOND_NS: u64 = 1_000_000_000;

fn ask(dir: &Path, tail: u32, follow: bool) -> UnixStream {
    let mut stream = connect(dir, CONTROL_SOCKET);
    writeln!(
        stream,
        r#"{{"version":1,"request":"log","tail":{tail},"follow":{follow}}}"#
    )
    .unwrap();
    stream
}

fn entries(reply: Reply) -> (Vec<LogEntry>, bool) {
    match reply {
        Reply::Log { entries, more } => (entries, more),
        other => panic!("{other:?}"),
    }
}

/// The last entries, once there are so many.
fn await_entries(dir: &Path, count: usize) -> Vec<LogEntry> {
    let begun = Instant::now();
    loop {
        let (entries, more) = entries(reply(&ask(dir, 100, false)));
        assert!(!more);
        if entries.len() >= count {
            return entries;
        }
        assert!(begun.elapsed() < SOON, "{entries:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn drops_are_told_once_a_second() {
    let (dir, running) = server();
    let drop = || running.counters.count_drop(DropReason::ForwardDenied);
    assert!(await_entries(dir.path(), 0).is_empty());
    (0..3).for_each(|_| drop());
    let first = await_entries(dir.path(), 1).remove(0);
    assert_eq!(
        (first.kind, first.prefix.as_str()),
        (LogKind::Drop, "forward_denied")
    );
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let age = u64::try_from(today.as_nanos()).unwrap() - first.at_ns;
    assert!(age < 60 * SECOND_NS, "{age}");
    // The clock stands still: no second is over.
    let told = first.count;
    (0..7).for_each(|_| drop());
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(await_entries(dir.path(), 1).len(), 1);
    running.machine.later_ns.store(SECOND_NS, SeqCst);
    let entries = await_entries(dir.path(), 2);
    assert_eq!(told + entries[1].count, 10, "none is left out: {entries:?}");
}

#[test]
fn who_follows_hears_of_what_comes() {
    let (dir, running) = server();
    running.counters.count_drop(DropReason::RuleDrop);
    await_entries(dir.path(), 1);
    let (all, new) = (ask(dir.path(), 5, true), ask(dir.path(), 0, true));
    let mut lines = [all, new].map(|stream| BufReader::new(stream).lines());
    let mut next = |which: usize| -> (Vec<LogEntry>, bool) {
        let line = lines[which].next().unwrap().unwrap();
        entries(serde_json::from_str(&line).unwrap())
    };
    let (told, more) = next(0);
    assert_eq!((told[0].prefix.as_str(), more), ("rule_drop", true));
    assert_eq!(next(1), (Vec::new(), true), "a sign of life");
    running.counters.count_drop(DropReason::NoFlow);
    for which in [0, 1] {
        let (told, more) = loop {
            let told = next(which);
            if !told.0.is_empty() {
                break told;
            }
        };
        assert_eq!((told[0].prefix.as_str(), more), ("no_flow", true));
    }
}

#[test]
fn followers_leave_room_for_others_and_give_their_seats_back() {
    let (dir, _running) = server();
    let mut held = Vec::new();
    let refused = loop {
        let stream = ask(dir.path(), 0, true);
        match reply(&stream) {
            Reply::Log { .. } => held.push(stream),
            other => break other,
        }
        assert!(held.len() <= 16);
    };
    assert_eq!(held.len(), 16);
    assert!(matches!(refused, Reply::Error(failure) if failure.kind == ErrorKind::Refused));
    assert!(
        await_entries(dir.path(), 0).is_empty(),
        "others are answered"
    );
    drop(held);
    let begun = Instant::now();
    while !matches!(reply(&ask(dir.path(), 0, true)), Reply::Log { .. }) {
        assert!(begun.elapsed() < SOON, "seats are not given back");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn one_who_follows_asks_nothing_else() {
    let (dir, _running) = server();
    let mut stream = ask(dir.path(), 0, true);
    assert!(matches!(reply(&stream), Reply::Log { .. }));
    writeln!(stream, r#"{{"version":1,"request":"status"}}"#).unwrap();
    assert_eq!(failure(&stream).0, ErrorKind::Refused);
    assert_closed(&stream);
}
