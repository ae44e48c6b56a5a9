//! A daemon that starts again takes over what lives, and nothing else.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;

use registry::{Client, Error, Grant, Row, Way, flags::*};
use tables::{Kind, Lookup, Side};
use wire::Protocol;

use crate::lab::*;
use crate::steps::*;

const RECORD: usize = 256;

/// The rows without what a restart changes.
fn rows(lab: &Lab) -> Vec<Row> {
    let mut rows = lab.registry.rows(lab.now);
    rows.iter_mut()
        .for_each(|row| (row.owner, row.age_ns) = (0, 0));
    rows.sort_by_key(|row| (row.proto, row.local));
    rows
}

/// Three registrations of different sorts.
fn furnished() -> Lab {
    let mut lab = Lab::new();
    let listener = assigned(&mut lab, TCP, 5, F);
    assert_eq!(lab.flags(&listener, LISTEN), 0);
    let shared = assigned(&mut lab, TCP, 6, F);
    assert_eq!(
        (
            lab.connect(&shared, PEER),
            lab.flags(&shared, CONNECT | ONCE)
        ),
        (0, 0)
    );
    let marked = assigned(&mut lab, UDP, 7, "0.0.0.0:0");
    assert_eq!(lab.flags(&marked, LISTEN | UNIDIR), 0);
    lab
}

#[test]
fn what_lives_is_as_before() {
    let lab = furnished();
    let (before, steering) = (rows(&lab), diverted(&lab));
    lab.state().log.clear();
    let mut lab = lab.restart(grants());
    assert_eq!((lab.adopted.kept, lab.adopted.gone), (3, 0));
    assert_eq!((rows(&lab), diverted(&lab)), (before, steering));
    assert_eq!((lab.state().watched.len(), lab.table.counts().0), (3, 3));
    assert_eq!(lab.registry.rows(lab.now)[0].age_ns, SECOND);
    let first = lab.state().log.iter().position(|line| line == "alive");
    assert_eq!(
        first,
        Some(3),
        "what closes after the question must be told"
    );
    let reached = lab
        .table
        .reached(Protocol::TCP, end(at(OTHER_PEER)), end(at(F)));
    assert!(matches!(reached, Lookup::Found(one) if one.local.port == 5));
    // What was taken is taken still.
    let s = lab.socket(TCP, 8);
    assert_eq!(lab.assign(&s, F), EADDRINUSE);
    let s = registry::Socket { reuse: true, ..s };
    assert_eq!((lab.assign(&s, F), lab.connect(&s, PEER)), (0, 0));
    assert_eq!(lab.flags(&s, CONNECT), EADDRINUSE);
    // And once more, from the file that the second daemon wrote.
    let before = rows(&lab);
    let lab = lab.restart(grants());
    assert_eq!((lab.adopted.kept, rows(&lab)), (4, before));
}

#[test]
fn connect_only_stays_so() {
    let mut lab = Lab::new();
    let first = assigned(&mut lab, TCP, 5, F);
    let second = assigned(&mut lab, TCP, 6, F);
    assert_eq!(lab.unassign(&first), 0);
    let mut lab = lab.restart(grants());
    assert_eq!(lab.flags(&second, LISTEN), EINVAL);
}

#[test]
fn what_the_kernel_does_not_know_so_is_not_taken_over() {
    let lab = furnished();
    let steering = diverted(&lab);
    let own = |lab: &Lab, n| lab.state().alive.keys().copied().min().unwrap() + n;
    let (a, b, c) = (own(&lab, 0), own(&lab, 1), own(&lab, 2));
    {
        let mut state = lab.state();
        state.alive.remove(&a);
        state.alive.get_mut(&b).unwrap().uid = 13;
        state.alive.get_mut(&c).unwrap().local = at("10.0.0.1:8");
    }
    let lab = lab.restart(grants());
    assert_eq!((lab.adopted.kept, lab.adopted.gone), (0, 3));
    assert!(lab.state().watched.is_empty());
    let mut lab = lab.restart(grants());
    assert_eq!(
        (lab.adopted.kept, lab.adopted.gone),
        (0, 0),
        "forgotten for good"
    );
    // What the kernel still has to say there is kept from leaving, over restarts.
    let local = |port| {
        (
            Protocol::TCP,
            end(at(&format!("10.0.0.1:{port}"))),
            Way::Both,
        )
    };
    assert_eq!(
        (diverted(&lab), lab.registry.counts().orphaned),
        (steering, 2)
    );
    lab.now += SECOND;
    lab.upkeep();
    assert!(
        lab.state().diverted.contains_key(&local(5)),
        "not long enough"
    );
    lab.settle();
    let left: Vec<_> = lab.state().diverted.keys().copied().collect();
    assert_eq!(left, [local(6)], "a socket has this one still");
    lab.state().alive.clear();
    lab.now += 10 * SECOND;
    lab.upkeep();
    assert!(lab.state().diverted.is_empty());
    assert_eq!(lab.registry.counts().orphaned, 0);
    let lab = lab.restart(grants());
    assert!(lab.state().diverted.is_empty(), "forgotten for good");
}

#[test]
fn what_was_taken_over_may_have_connections_that_nobody_knows() {
    let lab = furnished();
    let mut lab = lab.restart(grants());
    let steering = diverted(&lab);
    let cookies: Vec<u64> = lab
        .state()
        .alive
        .drain()
        .map(|(cookie, _)| cookie)
        .collect();
    lab.state().news.extend(cookies);
    lab.upkeep();
    assert_eq!(diverted(&lab), steering, "closing says something");
    lab.settle();
    assert!(lab.state().diverted.is_empty());
}

#[test]
fn nothing_is_reached_by_the_shadow_of_a_registration() {
    let lab = furnished();
    lab.state().alive.clear();
    let mut lab = lab.restart(grants());
    let reached = lab
        .table
        .reached(Protocol::TCP, end(at(OTHER_PEER)), end(at(F)));
    assert_eq!((reached, lab.table.counts().0), (Lookup::None, 0));
    // Its endpoints can be registered anew.
    let again = assigned(&mut lab, TCP, 5, F);
    assert_eq!(lab.flags(&again, LISTEN), 0);
}

#[test]
fn a_grant_that_has_gone_takes_its_registrations_along() {
    let by_group = |lab: &mut Lab| {
        lab.client = Client {
            uid: 99,
            gids: vec![1, 50],
            ..lab.client.clone()
        };
        assigned(lab, TCP, 9, "198.51.100.9:0");
    };
    let mut lab = furnished();
    by_group(&mut lab);
    let lab = lab.restart(grants());
    assert_eq!((lab.adopted.kept, lab.adopted.gone), (4, 0));
    let others: Vec<Grant> = grants().into_iter().take(1).collect();
    let lab = lab.restart(others);
    assert_eq!((lab.adopted.kept, lab.adopted.gone), (3, 1), "root's stay");
}

#[test]
fn orphans_and_what_was_unassigned_are_not_taken_over() {
    let mut lab = furnished();
    let gone = assigned(&mut lab, TCP, 9, F0);
    assert_eq!(lab.unassign(&gone), 0);
    let orphan = assigned(&mut lab, TCP, 10, F0);
    assert_eq!(lab.flags(&orphan, CONNECT), 0);
    let ways = [
        Way4(Side::Host, "10.0.0.1:10", PEER),
        Way4(Side::Wire, PEER, "203.0.113.5:10"),
    ];
    lab.flow(Kind::Connect, lab.owner(&orphan), TCP, ways);
    lab.close(&orphan);
    lab.upkeep();
    assert_eq!(lab.registry.counts().orphaned, 1);
    let lab = lab.restart(grants());
    assert_eq!((lab.adopted.kept, lab.adopted.gone), (3, 0));
    let local = |port| {
        (
            Protocol::TCP,
            end(at(&format!("10.0.0.1:{port}"))),
            Way::Both,
        )
    };
    assert!(
        lab.state().diverted.contains_key(&local(10)),
        "its connection may live"
    );
    assert!(
        !lab.state().diverted.contains_key(&local(9)),
        "this had none"
    );
}

#[test]
fn records_that_are_none_are_skipped_and_counted() {
    type Tamper = fn(&mut Vec<u8>);
    let cases: [(&str, Tamper, usize, usize); 8] = [
        ("untouched", |_| {}, 3, 0),
        ("a bit of one", |b| b[2 * RECORD + 99] ^= 1, 2, 1),
        ("torn", |b| b.truncate(3 * RECORD + 50), 2, 1),
        (
            "one at another's place",
            |b| b.copy_within(RECORD..2 * RECORD, 2 * RECORD),
            2,
            1,
        ),
        ("garbage behind", |b| b.extend([0xa5; 700]), 3, 3),
        ("another boot's", |b| b[30] ^= 1, 0, 0),
        ("a short header", |b| b.truncate(99), 0, 0),
        ("all garbage", |b| b.fill(0xff), 0, 0),
    ];
    for (name, tamper, kept, gone) in cases {
        let lab = furnished();
        let mut bytes = std::fs::read(lab.file()).unwrap();
        tamper(&mut bytes);
        std::fs::write(lab.file(), bytes).unwrap();
        let lab = lab.restart(grants());
        assert_eq!((lab.adopted.kept, lab.adopted.gone), (kept, gone), "{name}");
        assert_eq!(lab.registry.counts().damaged, gone as u64, "{name}");
    }
}

#[test]
fn the_file_is_the_daemons_own_and_nothing_else_will_do() {
    let lab = furnished();
    let mode = std::fs::metadata(lab.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    type Place = fn(&std::path::Path);
    let cases: [(&str, Place); 3] = [
        ("a folder", |path| std::fs::create_dir(path).unwrap()),
        ("a link", |path| symlink("/etc/passwd", path).unwrap()),
        ("a pipe", |path| {
            let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
        }),
    ];
    for (name, place) in cases {
        let lab = furnished();
        let (dir, state, file) = (Arc::clone(&lab.dir), Arc::clone(&lab.state), lab.file());
        std::fs::remove_file(&file).unwrap();
        place(&file);
        let opened = Lab::open(&Sizes::default(), dir, state, grants(), SECOND);
        let Err(error) = opened else {
            panic!("{name}: opened")
        };
        let want = format!("{} is not a plain file; remove it", file.display());
        assert_eq!(error.to_string(), want, "{name}");
    }
}

#[test]
fn a_start_that_fails_leaves_the_file_for_the_next() {
    let lab = furnished();
    lab.state().refuses_alive = true;
    let (dir, state) = (Arc::clone(&lab.dir), Arc::clone(&lab.state));
    drop(lab);
    let open = |dir, state| Lab::open(&Sizes::default(), dir, state, grants(), SECOND);
    let failed = open(Arc::clone(&dir), Arc::clone(&state));
    assert!(matches!(failed, Err(Error::World(_))));
    state.lock().unwrap().refuses_alive = false;
    let lab = open(dir, state).unwrap();
    assert_eq!(lab.adopted.kept, 3);
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let lab = Lab::new();
    let (dir, state) = (Arc::clone(&lab.dir), Arc::clone(&lab.state));
    std::fs::remove_dir_all(dir.path()).unwrap();
    let opened = Lab::open(&Sizes::default(), dir, state, grants(), SECOND);
    let Err(error) = opened else { panic!("opened") };
    let text = error.to_string();
    assert!(
        text.contains("registrations") && text.contains("No such file"),
        "{text}"
    );
}
