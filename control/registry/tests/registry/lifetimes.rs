//! How registrations end, and what stays until their flows have gone.

use std::sync::Arc;

use registry::{Socket, Way, flags::*};
use shm::{Access, Operation, Request};
use tables::{InsertError, Kind, Lookup, NewFlow, OwnerId, Side};
use wire::Protocol;

use crate::lab::*;
use crate::steps::*;

fn listening(lab: &mut Lab, port: u16, foreign: &str) -> Socket {
    let socket = lab.socket(TCP, port);
    assert_eq!(lab.set(&socket, assign_flags(foreign, None, LISTEN)), 0);
    socket
}

/// A connection of a listener at port 5.
fn accepted(lab: &Lab, owner: OwnerId) -> tables::Hit {
    let ways = [
        Way4(Side::Wire, PEER, F),
        Way4(Side::Host, "10.0.0.1:5", PEER),
    ];
    lab.flow(Kind::Listen, owner, TCP, ways)
}

#[test]
fn endpoints_are_diverted_before_they_are_found_and_released_after() {
    let mut lab = Lab::new();
    let socket = listening(&mut lab, 5, F);
    lab.close(&socket);
    lab.upkeep();
    let cookie = socket.cookie;
    let want = [
        "alive".to_owned(),
        format!("watch {cookie} false"),
        "divert 10.0.0.1:5 Both found false".to_owned(),
        format!("divert {F} Inbound found false"),
        format!("forget {cookie}"),
        "release 10.0.0.1:5 Both found false".to_owned(),
        format!("release {F} Inbound found false"),
    ];
    assert_eq!(lab.state().log, want);
}

#[test]
fn a_closed_listener_is_an_orphan_until_its_connections_end() {
    let mut lab = Lab::new();
    let listener = listening(&mut lab, 5, F);
    let owner = lab.owner(&listener);
    let flow = accepted(&lab, owner);
    lab.close(&listener);
    lab.upkeep();
    let row = lab.registry.rows(lab.now).pop().unwrap();
    assert!(row.is_orphan && row.flows == 1, "{row:?}");
    let counts = lab.registry.counts();
    assert_eq!((counts.live, counts.orphaned, counts.ended), (0, 1, 1));
    let both = [
        ("10.0.0.1:5".to_owned(), Way::Both, 1),
        (F.to_owned(), Way::Inbound, 1),
    ];
    assert_eq!(
        diverted(&lab),
        both,
        "its packets must not leave as they are"
    );
    // Nobody new gets in.
    let reached = lab
        .table
        .reached(Protocol::TCP, end(at(OTHER_PEER)), end(at(F)));
    assert_eq!(reached, Lookup::None);
    let late = NewFlow {
        owner,
        ..new_flow(
            Kind::Listen,
            TCP,
            [
                Way4(Side::Wire, OTHER_PEER, F),
                Way4(Side::Host, "10.0.0.1:5", OTHER_PEER),
            ],
        )
    };
    assert_eq!(
        lab.flows.insert(&late, lab.now),
        Err(InsertError::OwnerGone)
    );
    // Another listener takes its place at once, with an id of its own.
    let next = listening(&mut lab, 5, F);
    assert_ne!(lab.owner(&next), owner);
    // The connection ends; so does all that was for it.
    lab.flows.remove(flow.id, lab.now);
    lab.close(&next);
    lab.upkeep();
    assert_eq!(diverted(&lab), both, "the kernel may have more to say");
    lab.settle();
    assert!(lab.registry.rows(lab.now).is_empty());
    assert!(lab.state().diverted.is_empty() && lab.state().watched.is_empty());
}

#[test]
fn unassign_leaves_connections_their_steering_too() {
    let mut lab = Lab::new();
    let socket = assigned(&mut lab, TCP, 5, F);
    assert_eq!(lab.flags(&socket, CONNECT), 0);
    let flow = holding(&lab, lab.owner(&socket));
    assert_eq!(lab.unassign(&socket), 0);
    assert!(lab.flows.is_withdrawn(flow.flow.owner));
    lab.upkeep();
    assert_eq!(lab.state().diverted.len(), 1);
    // The same socket may register again meanwhile.
    assert_eq!(lab.set(&socket, assign_flags(F, None, CONNECT)), 0);
    assert_eq!(diverted(&lab), [("10.0.0.1:5".to_owned(), Way::Both, 2)]);
    lab.flows.remove(flow.id, lab.now);
    lab.settle();
    assert_eq!(
        diverted(&lab),
        [("10.0.0.1:5".to_owned(), Way::Both, 2)],
        "the socket that had the flow is still open"
    );
    lab.close(&socket);
    lab.settle();
    assert!(lab.state().diverted.is_empty());
}

#[test]
fn a_flow_that_was_killed_before_its_socket_closed_leaves_a_shadow() {
    let mut lab = Lab::new();
    let socket = assigned(&mut lab, TCP, 5, F);
    assert_eq!(lab.flags(&socket, CONNECT), 0);
    let flow = holding(&lab, lab.owner(&socket));
    lab.flows.remove(flow.id, lab.now);
    lab.upkeep();
    lab.close(&socket);
    lab.upkeep();
    assert_eq!(lab.state().diverted.len(), 1, "a FIN is under way");
    lab.settle();
    assert!(lab.state().diverted.is_empty());
}

#[test]
fn what_never_had_a_flow_leaves_none() {
    let mut lab = Lab::new();
    let socket = assigned(&mut lab, TCP, 5, F);
    assert_eq!(lab.flags(&socket, CONNECT), 0);
    lab.close(&socket);
    lab.upkeep();
    assert!(lab.state().diverted.is_empty());
}

#[test]
fn what_has_closed_stands_in_nobodys_way_even_before_upkeep() {
    type Late = fn(&mut Lab) -> i32;
    let cases: [(&str, Late); 6] = [
        ("local endpoint", |l| {
            let first = assigned(l, TCP, 5, F0);
            let s = l.socket(TCP, 5);
            l.close(&first);
            l.at_once(&s, &assign(F0))
        }),
        ("foreign endpoint", |l| {
            let first = assigned(l, TCP, 5, F);
            let s = l.socket(TCP, 6);
            l.close(&first);
            l.at_once(&s, &assign(F))
        }),
        ("foreign endpoint: not connect-only either", |l| {
            let first = assigned(l, TCP, 5, F);
            let s = Socket {
                reuse: true,
                ..l.socket(TCP, 6)
            };
            l.close(&first);
            assert_eq!(l.at_once(&s, &assign(F)), 0);
            l.at_once(&s, &set_flags(LISTEN))
        }),
        ("pair", |l| {
            let first = assigned(l, TCP, 5, F);
            assert_eq!((l.connect(&first, PEER), l.flags(&first, CONNECT)), (0, 0));
            let s = assigned(l, TCP, 6, F);
            assert_eq!(l.connect(&s, PEER), 0);
            l.close(&first);
            l.at_once(&s, &set_flags(CONNECT))
        }),
        ("pair, listening", |l| {
            let s = assigned(l, TCP, 6, F);
            assert_eq!(l.connect(&s, PEER), 0);
            let first = assigned(l, TCP, 5, F);
            assert_eq!((l.connect(&first, PEER), l.flags(&first, CONNECT)), (0, 0));
            l.close(&first);
            l.at_once(&s, &set_flags(LISTEN))
        }),
        ("news lost", |l| {
            let first = assigned(l, TCP, 5, F);
            let s = l.socket(TCP, 6);
            l.close(&first);
            l.state().news.clear();
            l.state().is_news_lost = true;
            l.at_once(&s, &assign(F))
        }),
    ];
    for (name, play) in cases {
        assert_eq!(play(&mut Lab::new()), 0, "{name}");
    }
    let sizes = Sizes {
        registrations: 1,
        ..Sizes::default()
    };
    let mut lab = Lab::sized(&sizes);
    let first = assigned(&mut lab, TCP, 5, F);
    let second = lab.socket(TCP, 6);
    lab.close(&first);
    assert_eq!(lab.at_once(&second, &assign(F)), 0, "room");
}

#[test]
fn lost_news_are_made_up_for() {
    let mut lab = Lab::new();
    let sockets: Vec<_> = (1..=20)
        .map(|port| assigned(&mut lab, TCP, port, F0))
        .collect();
    for socket in &sockets[..15] {
        lab.close(socket);
    }
    lab.state().news.truncate(3);
    lab.state().is_news_lost = true;
    lab.state().refuses_alive = true;
    lab.upkeep();
    assert_eq!(
        lab.registry.counts().live,
        17,
        "the three that were told of"
    );
    // While the kernel does not answer, clashes do not make it work.
    let dumps = lab.state().dumps;
    let clash = lab.socket(TCP, 20);
    for _ in 0..10 {
        assert_eq!(lab.at_once(&clash, &assign(F0)), EEXIST);
    }
    assert_eq!(lab.state().dumps, dumps);
    lab.state().refuses_alive = false;
    lab.upkeep();
    assert_eq!(lab.state().dumps, dumps, "not more than once a second");
    lab.now += SECOND;
    lab.upkeep();
    assert_eq!(lab.registry.counts().live, 5);
    let dumps = lab.state().dumps;
    lab.upkeep();
    assert_eq!(lab.state().dumps, dumps, "once is enough");
    // No news at all is as bad as lost ones.
    lab.close(&sockets[19]);
    lab.state().refuses_news = true;
    lab.now += SECOND;
    lab.upkeep();
    assert_eq!(lab.registry.counts().live, 4);
    assert!(lab.registry.counts().failures >= 2);
}

#[test]
fn a_socket_that_has_another_port_now_has_no_registration() {
    let mut lab = Lab::new();
    let socket = assigned(&mut lab, TCP, 5, F);
    let moved = Socket {
        local: at("10.0.0.1:6"),
        ..socket
    };
    assert_eq!(lab.query(&socket), Ok(at(F)));
    let set = Request::new(Operation::Flags, Access::Get, 3);
    assert_eq!(lab.at_once(&moved, &set), ENOENT);
    assert!(lab.registry.rows(lab.now).is_empty());
    assert_eq!(lab.assign(&moved, F), 0);
}

#[test]
fn an_id_is_not_given_again_while_a_worker_may_hold_it() {
    let mut lab = Lab::new();
    let socket = assigned(&mut lab, TCP, 5, F);
    let first = lab.owner(&socket);
    assert_eq!(lab.unassign(&socket), 0);
    assert!(lab.flows.is_withdrawn(first));
    assert_eq!(lab.assign(&socket, F), 0);
    let second = lab.owner(&socket);
    assert_ne!(second, first);
    lab.now += SECOND;
    assert_eq!((lab.unassign(&socket), lab.assign(&socket, F)), (0, 0));
    assert_eq!(
        lab.owner(&socket),
        first,
        "ids are used again after their rest"
    );
    assert!(!lab.flows.is_withdrawn(first));
}

#[test]
fn a_hundred_thousand_cycles_leave_everything_as_before() {
    // Twenty thousand a second, and each id rests for one.
    let mut lab = Lab::sized(&Sizes {
        owners: 32_768,
        ..Sizes::default()
    });
    let before = lab.snapshot();
    let unassign = Request::new(Operation::Unassign, Access::Set, 3);
    let alloc = Request::new(Operation::Alloc, Access::Set, 3);
    for n in 0..100_000_u32 {
        let socket = lab.socket(TCP, 1000 + (n % 50_000) as u16);
        lab.now += 50_000;
        assert_eq!(
            lab.at_once(&socket, &assign_flags(F0, None, CONNECT)),
            0,
            "{n}"
        );
        if n % 3 == 0 {
            assert_eq!(lab.at_once(&socket, &alloc), 0, "{n}");
        }
        if n % 2 == 0 {
            assert_eq!(lab.at_once(&socket, &unassign), 0, "{n}");
        }
        lab.close(&socket);
        if n % 64 == 0 {
            lab.upkeep();
        }
    }
    lab.upkeep();
    assert_eq!(lab.snapshot(), before);
    let counts = lab.registry.counts();
    assert_eq!((counts.made, counts.ended), (100_000, 100_000));
    let bytes = std::fs::metadata(lab.file()).unwrap().len();
    assert!(bytes < 32_768 * 256, "ids are used again: {bytes} bytes");
}

#[test]
fn ten_thousand_registrations_of_a_killed_process_go_at_once() {
    let sizes = Sizes {
        registrations: 10_000,
        owners: 20_000,
        ..Sizes::default()
    };
    let mut lab = Lab::sized(&sizes);
    let sockets: Vec<_> = (1..=10_000)
        .map(|port| {
            let socket = lab.socket(UDP, port);
            assert_eq!(lab.at_once(&socket, &assign_flags(F0, None, CONNECT)), 0);
            socket
        })
        .collect();
    for socket in &sockets {
        lab.close(socket);
    }
    assert!(lab.registry.upkeep(lab.now), "not all in one go");
    let left = lab.registry.counts().live;
    assert!((9000..10_000).contains(&left), "{left} left");
    // What stands in somebody's way ends at once, wherever the news of it stand.
    let again = lab.socket(UDP, 10_000);
    assert_eq!(lab.at_once(&again, &assign_flags(F0, None, CONNECT)), 0);
    lab.close(&again);
    let mut turns = 1;
    while lab.registry.upkeep(lab.now) {
        turns += 1;
        assert!(turns < 50, "more than one step of upkeep");
    }
    assert_eq!(lab.table.counts().0, 0);
    assert!(lab.state().diverted.is_empty() && lab.state().watched.is_empty());
}

/// Mounts a file system of two pages on a folder, for this thread alone.
fn mount_small(on: &std::path::Path) {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    mount(
        Some("none"),
        on,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=8k"),
    )
    .unwrap();
}

#[test]
fn what_cannot_be_written_down_is_refused() {
    // Removed when the mount has gone with its thread.
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let mounted = Arc::clone(&dir);
    let full = std::thread::spawn(move || {
        let dir = mounted;
        mount_small(dir.path());
        let opened = Lab::open(&Sizes::default(), dir, Arc::default(), grants(), SECOND);
        let mut lab = opened.unwrap();
        let mut errno = 0;
        let mut made = 0;
        while errno == 0 && made < 100 {
            let socket = lab.socket(TCP, 1000 + made);
            errno = lab.set(&socket, assign_flags(F0, None, CONNECT));
            made += u16::from(errno == 0);
        }
        // What is written down already can be changed.
        let first = registry::Socket {
            cookie: 1001,
            ..lab.socket(TCP, 1000)
        };
        assert_eq!(lab.flags(&first, CONNECT | ONCE), 0);
        (errno, made)
    });
    // A header and 31 records fill two pages.
    assert_eq!(full.join().unwrap(), (ENOBUFS, 31));
}
