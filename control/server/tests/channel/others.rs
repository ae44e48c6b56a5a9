//! What one client's trouble is to others: nothing.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use shm::Operation;
use socket2::Type;

use super::registrations;
use crate::fixture::server;
use crate::namespace::inside;
use crate::proxy::{Proxy, SOON, bound};

#[test]
fn a_flood_leaves_room_for_others() {
    inside(|| {
        let (dir, _running) = server();
        let (flooding, other) = (Proxy::new(dir.path()), Proxy::new(dir.path()));
        let socket = bound(Type::STREAM);
        let (is_over, asked) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        flooding.get(Operation::Version, &socket).unwrap();
                        asked.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
            while asked.load(Ordering::Relaxed) < 100 {
                thread::yield_now();
            }
            for _ in 0..50 {
                let start = Instant::now();
                let registered = other.assign(&socket, "203.0.113.9:0");
                let ended = other.set(Operation::Unassign, &socket, |_| {});
                let took = start.elapsed();
                is_over.store(took > Duration::from_secs(2), Ordering::Relaxed);
                assert!(took < Duration::from_secs(2), "{took:?}");
                assert_eq!((registered, ended), (Ok(()), Ok(())));
            }
            is_over.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn who_does_not_read_holds_up_nobody() {
    inside(|| {
        let (dir, mut running) = server();
        let lazy = crate::proxy::Raw::new(dir.path());
        let socket = bound(Type::STREAM);
        // Every slot posted, and no reply ever looked at.
        let record = crate::proxy::record(0, 1, 0, socket.as_raw_fd(), None);
        for slot in 0..48 {
            lazy.put(1024 + 320 * slot + 64, &record);
            lazy.put_state(slot, 1 << 2 | 1);
        }
        lazy.post((1 << 48) - 1);
        let other = Proxy::new(dir.path());
        other.get(Operation::Version, &socket).unwrap();
        let start = Instant::now();
        running.stop();
        assert!(start.elapsed() < Duration::from_secs(2));
        lazy.assert_cut_off();
    });
}

/// How many descriptors of this process are this socket.
fn copies(inode: u64) -> usize {
    let name = format!("socket:[{inode}]");
    let open = fs::read_dir("/proc/self/fd").unwrap();
    let links = open.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
    links.filter(|link| link.as_os_str() == &*name).count()
}

#[test]
fn a_close_that_blocks_holds_up_its_client_only() {
    const LINGER: Duration = Duration::from_secs(2);
    inside(|| {
        let (dir, running) = server();
        let (slow, other) = (Proxy::new(dir.path()), Proxy::new(dir.path()));
        // A connection whose peer does not read, so that a lingering close has to wait.
        let listener = TcpListener::bind("10.1.0.1:4000").unwrap();
        let full = TcpStream::connect("10.1.0.1:4000").unwrap();
        let (_deaf, _) = listener.accept().unwrap();
        full.set_nonblocking(true).unwrap();
        while std::io::Write::write(&mut &full, &[0; 65_536]).is_ok() {}
        rustix::net::sockopt::set_socket_linger(&full, Some(LINGER)).unwrap();
        let inode = rustix::fs::fstat(full.as_fd()).unwrap().st_ino;
        let socket = bound(Type::STREAM);
        thread::scope(|scope| {
            // While the registry is held, the server has its copy and waits.
            let held = running.registry.lock().unwrap();
            let asking = {
                let number = full.as_fd().as_raw_fd();
                let slow = &slow;
                scope.spawn(move || {
                    let start = Instant::now();
                    let _ = slow.get_number(Operation::Version, number);
                    start.elapsed()
                })
            };
            let start = Instant::now();
            while copies(inode) < 2 {
                assert!(start.elapsed() < SOON, "the server takes no copy");
                thread::sleep(Duration::from_millis(1));
            }
            // Does not block: the server's copy is the last.
            drop(full);
            drop(held);
            thread::sleep(Duration::from_millis(200));
            let start = Instant::now();
            other.get(Operation::Version, &socket).unwrap();
            assert!(registrations(dir.path()).is_empty());
            assert!(
                start.elapsed() < Duration::from_secs(1),
                "{:?}",
                start.elapsed()
            );
            assert!(!asking.is_finished(), "it was to block");
            assert!(asking.join().unwrap() > LINGER / 2);
        });
    });
}
