//! Sockets of other processes.

use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use sockets::{Facts, FetchError, copy, facts, peer_pidfd, pidfd_of};

use crate::namespace::inside;

/// As the server does it.
fn fetch(pidfd: BorrowedFd<'_>, fd: i32) -> Result<Facts, FetchError> {
    facts(copy(pidfd, fd)?.as_fd())
}

/// A process of some user that does nothing but hold a descriptor, as its standard input.
struct Holder(Child);

impl Holder {
    fn start(uid: u32, held: OwnedFd) -> Self {
        let mut command = Command::new("sleep");
        command.arg("60").uid(uid).gid(uid).stdin(held);
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }

    fn pidfd(&self) -> OwnedFd {
        pidfd_of(self.0.id().cast_signed()).unwrap()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_process_is_asked_about_its_own_numbers() {
    inside(|| {
        let ours = TcpListener::bind("127.0.0.1:4000").unwrap();
        // Of another user too.
        for uid in [0, 65534] {
            let holder = Holder::start(uid, ours.try_clone().unwrap().into());
            let pidfd = holder.pidfd();
            let found = fetch(pidfd.as_fd(), 0).unwrap();
            assert_eq!(found, facts(ours.as_fd()).unwrap());
            assert_eq!(found.uid, 0, "the socket's owner, not the process's");
            // Our number means nothing there.
            assert!(ours.as_raw_fd() > 2);
            for number in [ours.as_raw_fd(), 9999, -1, i32::MAX, i32::MIN] {
                let error = fetch(pidfd.as_fd(), number).unwrap_err();
                assert_eq!(error.errno(), libc::EBADF, "{number}: {error}");
            }
            let error = fetch(pidfd.as_fd(), 1).unwrap_err();
            assert_eq!(error.errno(), libc::ENOTSOCK, "{error}");
        }
    });
}

#[test]
fn a_dead_process_has_nothing() {
    inside(|| {
        let ours = TcpListener::bind("127.0.0.1:4000").unwrap();
        let mut holder = Holder::start(0, ours.into());
        let pidfd = holder.pidfd();
        fetch(pidfd.as_fd(), 0).unwrap();
        holder.0.kill().unwrap();
        holder.0.wait().unwrap();
        let refused = fetch(pidfd.as_fd(), 0).unwrap_err();
        assert!(matches!(refused, FetchError::Denied), "{refused}");
        assert_eq!(refused.errno(), libc::EPERM);
        assert!(pidfd_of(-1).is_err() && pidfd_of(0).is_err());
        TcpListener::bind("127.0.0.1:4000").expect("no copy was kept");
    });
}

#[test]
fn the_peer_of_a_unix_socket_is_the_process_that_connected() {
    inside(|| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        // Who holds the other end now does not matter.
        let holder = Holder::start(0, theirs.into());
        let pidfd = peer_pidfd(&ours).unwrap();
        let listener = TcpListener::bind("127.0.0.1:4000").unwrap();
        let found = fetch(pidfd.as_fd(), listener.as_raw_fd()).unwrap();
        assert_eq!(found, facts(listener.as_fd()).unwrap());
        drop(holder);
    });
}
