//! The file by which registrations outlive a daemon.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::OnceLock;

use registry::{AliveSocket, Error, FILE, Row, Way};
use wire::Protocol;

use crate::frames::Input;
use crate::made_up::{self, Daemon, ENOUGH, MANAGED, Room, Steering, end, is_granted, steering};
use crate::record::{RECORD_BYTES, Record};

const TCP: u8 = 6;
const UDP: u8 = 17;
/// Orphans of an earlier daemon are gone after this, if nobody has their endpoints.
const LONG_NS: u64 = 700_000_000_000;
/// Bits of the first byte: the input has a header of its own; there is little room for
/// registrations, for endpoints, for watches.
const OWN_HEADER: u8 = 0x80;
const FEW_REGISTRATIONS: u8 = 0x40;
const FEW_ENDPOINTS: u8 = 0x20;
const FEW_WATCHES: u8 = 0x10;

/// Sockets that live: cookie, protocol, user and where.
const ALIVE: [(u64, u8, u32, [u8; 4], u16); 8] = [
    (1, TCP, 0, [10, 0, 0, 1], 5),
    (2, TCP, 13, [10, 0, 0, 1], 6),
    (3, UDP, 13, [10, 0, 0, 1], 7),
    (4, UDP, 99, [10, 0, 0, 2], 8),
    (5, TCP, 0, [10, 0, 0, 1], MANAGED),
    (6, TCP, 0, [10, 0, 0, 1], 6),
    (7, UDP, 0, [10, 0, 0, 9], 9),
    (8, TCP, 13, [10, 0, 0, 2], 8),
];

/// The sockets that live in this target.
#[must_use]
pub fn alive() -> HashMap<u64, AliveSocket> {
    let socket = |&(cookie, proto, uid, addr, port): &(u64, u8, u32, [u8; 4], u16)| {
        let local = SocketAddrV4::new(Ipv4Addr::from(addr), port);
        (cookie, AliveSocket { proto, uid, local })
    };
    ALIVE.iter().map(socket).collect()
}

/// The input: a byte that says how much room there is and whether the file's header is there or
/// this boot's, one with two bits for every fourth record (0: as it is, 1: its checksum is put
/// right, 2 and 3: its place too), and the file.
///
/// # Panics
/// If anything is taken over that does not live, what was diverted could leave untranslated,
/// the box's books do not agree with what is registered, or another start does not find the
/// same.
pub fn registrations(bytes: &[u8]) {
    let mut input = Input(bytes);
    let [how, repairs] = input.take();
    let own: &[u8] = if how & OWN_HEADER == 0 { header() } else { &[] };
    let mut file = [own, input.rest(usize::MAX)].concat();
    repair(&mut file, repairs);
    let dir = made_up::folder();
    write(dir.path(), &file);
    let records = records(&file);
    let daemon = match Daemon::start(dir.path(), alive(), room(how)) {
        Ok(daemon) => daemon,
        Err(error) => return assert_full(&error, how, dir.path(), &file),
    };
    daemon.balance();
    assert_adopted(&daemon, &records, &file);
    assert_diverted(&daemon, &records);
    let again = Daemon::start(dir.path(), alive(), room(how));
    let again = again.unwrap_or_else(|error| panic!("no second start: {error}"));
    again.balance();
    assert_same(&daemon, &again);
    drop(daemon);
    leave(again, dir.path());
}

fn room(how: u8) -> Room {
    let few = |bit: u8, few: usize, many: usize| if how & bit == 0 { many } else { few };
    Room {
        registrations: few(FEW_REGISTRATIONS, 1, ENOUGH.registrations),
        owners: few(FEW_REGISTRATIONS, 2, ENOUGH.owners as usize) as u32,
        endpoints: few(FEW_ENDPOINTS, 3, ENOUGH.endpoints),
        watches: few(FEW_WATCHES, 1, ENOUGH.watches),
    }
}

fn write(dir: &Path, file: &[u8]) {
    let written = fs::write(dir.join(FILE), file);
    written.unwrap_or_else(|error| panic!("no file: {error}"));
}

fn read(dir: &Path) -> Vec<u8> {
    fs::read(dir.join(FILE)).unwrap_or_else(|error| panic!("no file: {error}"))
}

/// What a file of this boot begins with.
fn header() -> &'static [u8] {
    static HEADER: OnceLock<Vec<u8>> = OnceLock::new();
    HEADER.get_or_init(|| {
        let dir = made_up::folder();
        match Daemon::start(dir.path(), HashMap::new(), ENOUGH) {
            Ok(_) => read(dir.path()),
            Err(error) => panic!("no registry: {error}"),
        }
    })
}

fn repair(file: &mut [u8], repairs: u8) {
    for (owner, bytes) in places(file) {
        let how = repairs >> (2 * (owner & 3)) & 3;
        let mut record = Record(bytes);
        // An empty place is one.
        if how == 0 || record.is_empty() {
            continue;
        }
        if how > 1 {
            record.place(owner);
        }
        record.seal();
        let place = file.chunks_mut(RECORD_BYTES).nth(owner as usize);
        if let Some(place) = place {
            place.copy_from_slice(&record.0[..place.len()]);
        }
    }
}

/// The records behind the header, with the owners that they are of. What is missing of the last
/// is zeros.
fn places(file: &[u8]) -> Vec<(u32, [u8; RECORD_BYTES])> {
    let padded = file.chunks(RECORD_BYTES).map(|chunk| {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..chunk.len()].copy_from_slice(chunk);
        bytes
    });
    (0..).zip(padded).skip(1).collect()
}

/// Those that a daemon wrote, and not for nobody.
fn records(file: &[u8]) -> Vec<Record> {
    if file.get(..RECORD_BYTES) != Some(header()) {
        return Vec::new();
    }
    let records = places(file)
        .into_iter()
        .map(|(owner, it)| (owner, Record(it)));
    let good = records.filter(|(owner, record)| record.is_good(*owner));
    good.map(|(_, record)| record).collect()
}

/// A start may fail for want of room, and leaves the file for the next then.
fn assert_full(error: &Error, how: u8, dir: &Path, file: &[u8]) {
    let is_narrow = how & (FEW_REGISTRATIONS | FEW_ENDPOINTS) != 0;
    let says_so = error.to_string().contains("no room");
    assert!(is_narrow && says_so, "not opened: {error}");
    assert_eq!(read(dir), file, "a start that failed has changed the file");
}

/// What is taken over stands in the file and lives, as the same, and is granted.
fn assert_adopted(daemon: &Daemon, records: &[Record], file: &[u8]) {
    let rows = daemon.rows();
    let (orphans, live): (Vec<&Row>, Vec<&Row>) = rows.iter().partition(|row| row.is_orphan);
    let counts = daemon.registry.counts();
    assert_eq!(daemon.adopted.kept, live.len());
    assert_eq!(counts.adopted, daemon.adopted.kept as u64);
    let known = records.iter().filter(|record| !record.is_orphan()).count();
    let damaged = counts.damaged as usize;
    assert_eq!(daemon.adopted.kept + daemon.adopted.gone, known + damaged);
    if !records.is_empty() {
        let filled = places(file).into_iter();
        let filled = filled.filter(|(_, it)| !Record(*it).is_empty()).count();
        assert_eq!(records.len() + damaged, filled);
    }
    let alive = alive();
    let mut cookies = BTreeSet::new();
    for row in live {
        let lives = |record: &&Record| {
            !record.is_orphan()
                && record.is_shown_as(row)
                && alive.get(&record.cookie()) == Some(&record.socket())
        };
        let mut candidates = records.iter().filter(lives).map(Record::cookie);
        let own = candidates.find(|cookie| !cookies.contains(cookie));
        let Some(cookie) = own else {
            panic!("{row:?} does not live, or twice");
        };
        cookies.insert(cookie);
        let groups = records.iter().filter(|record| record.cookie() == cookie);
        let is_fine = |record: &Record| is_granted(row.uid, &record.groups(), *row.foreign.ip());
        assert!(groups.clone().any(is_fine), "{row:?} is not granted");
        let is_managed = row.proto == Protocol::TCP && row.local.port() == MANAGED;
        assert!(!is_managed, "{row:?}");
    }
    let watched: BTreeSet<u64> = daemon.books().watched.keys().copied().collect();
    assert_eq!(watched, cookies);
    for row in orphans {
        assert!(
            records.iter().any(|record| record.is_shown_as(row)),
            "{row:?}"
        );
    }
}

/// Whatever the earlier daemon diverted is diverted: connections that nobody knows may go on.
fn assert_diverted(daemon: &Daemon, records: &[Record]) {
    let mut needed = Steering::new();
    for record in records {
        let row = record.row();
        let [local, foreign] = record.was_diverted();
        let (own, _) = steering(std::slice::from_ref(&row));
        let local_at = (row.proto, end(row.local), Way::Both);
        let foreign_at = (row.proto, end(row.foreign), Way::Inbound);
        for (at, was) in [(local_at, local), (foreign_at, foreign)] {
            if was || own.contains_key(&at) {
                *needed.entry(at).or_insert(0) += 1;
            }
        }
    }
    assert_eq!(daemon.books().diverted, needed);
}

fn assert_same(daemon: &Daemon, again: &Daemon) {
    assert_eq!(again.adopted.kept, daemon.adopted.kept);
    assert_eq!(
        (again.adopted.gone, again.registry.counts().damaged),
        (0, 0)
    );
    assert_eq!(sorted(again), sorted(daemon));
    let (old, new) = (daemon.books(), again.books());
    assert_eq!((&new.diverted, &new.watched), (&old.diverted, &old.watched));
}

/// The rows without what another start changes: owners, and the ends of names that do not fit
/// a record in whole characters.
fn sorted(daemon: &Daemon) -> Vec<String> {
    let mut rows = daemon.rows();
    for row in &mut rows {
        row.owner = 0;
        row.command = Record::kept_name(row.command.as_bytes());
    }
    let mut rows: Vec<String> = rows.iter().map(|row| format!("{row:?}")).collect();
    rows.sort();
    rows
}

/// All sockets close, and time passes: nothing is left.
fn leave(mut daemon: Daemon, dir: &Path) {
    daemon.close(alive().into_keys());
    daemon.upkeep();
    assert_eq!(daemon.registry.counts().live, 0);
    daemon.balance();
    daemon.now_ns += LONG_NS;
    daemon.upkeep();
    assert_eq!(daemon.rows(), []);
    let left: Vec<_> = daemon.books().diverted.keys().copied().collect();
    let none: [(Protocol, wire::Endpoint, Way); 0] = [];
    assert_eq!(left, none);
    let file = read(dir);
    assert!(records(&file).is_empty(), "the file still has records");
}
