//! Very many closes at once: each is told, or that some were lost.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, socket};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::child::{Process, role};
use crate::{PATIENCE, cookie, told, udp, watch};

const PROCESSES: usize = 8;
const EACH: usize = 2_500;
const MANY: usize = PROCESSES * EACH;

/// As many as the process may have without a privilege for it.
fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let current = limit.maximum;
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).unwrap();
}

/// Not bound: so many ports are not free everywhere.
fn unbound() -> OwnedFd {
    socket(AddressFamily::INET, SocketType::DGRAM, None).unwrap()
}

#[test]
fn twenty_thousand_sockets_of_killed_processes_are_told() {
    if let Some(mut parent) = role() {
        allow_many_descriptors();
        let sockets: Vec<OwnedFd> = (0..EACH).map(|_| unbound()).collect();
        for socket in &sockets {
            parent.write_all(&cookie(socket).to_ne_bytes()).unwrap();
        }
        // Until it is killed.
        drop(parent.read_exact(&mut [0]));
        return;
    }
    let mut watch = watch(MANY as u32);
    let test = "many::twenty_thousand_sockets_of_killed_processes_are_told";
    let mut children: Vec<Process> = (0..PROCESSES).map(|_| Process::start(test, &[])).collect();
    let mut cookies = HashSet::new();
    for child in &mut children {
        cookies.extend((0..EACH).map(|_| child.number()));
    }
    assert_eq!(cookies.len(), MANY);
    for cookie in &cookies {
        watch.add(*cookie, true).unwrap();
    }
    drop(children);
    let told = told(&mut watch, MANY);
    assert_eq!(told.len(), MANY, "each once");
    assert_eq!(told.into_iter().collect::<HashSet<_>>(), cookies);
}

#[test]
fn what_finds_no_room_is_lost_and_that_is_told_once() {
    let mut watch = watch(8);
    // Nobody asks meanwhile: the second eight find the queue full.
    let mut first = Vec::new();
    for round in 0..2 {
        let sockets: Vec<UdpSocket> = (0..8).map(|_| udp()).collect();
        for socket in &sockets {
            let end = Instant::now() + PATIENCE;
            // Room comes as soon as the ones before have closed.
            while let Err(error) = watch.add(cookie(socket), true) {
                assert!(Instant::now() < end, "{error}");
                thread::sleep(Duration::from_millis(1));
            }
            if round == 0 {
                first.push(cookie(socket));
            }
        }
    }
    let mut told = Vec::new();
    let end = Instant::now() + PATIENCE;
    let mut lost = 0;
    loop {
        assert!(Instant::now() < end, "nobody says that some were lost");
        let news = watch.closed(3, |cookie| told.push(cookie)).unwrap();
        lost += u32::from(news.lost);
        if lost > 0 && !news.more {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    told.sort_unstable();
    first.sort_unstable();
    assert!(first.iter().all(|cookie| told.contains(cookie)), "{told:?}");
    let (again, later) = (udp(), udp());
    watch.add(cookie(&again), true).unwrap();
    watch.add(cookie(&later), true).unwrap();
    let watched = cookie(&again);
    drop(again);
    assert_eq!(self::told(&mut watch, 1), [watched]);
}
