//! A daemon that keeps a list of registrations as it is told, with neither a dataplane nor
//! TProxy's rules behind it. Sockets it names by cookie, as the true one does.

#![allow(dead_code, reason = "no test file needs all of it")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{CLIENT_SOCKET, CONTROL_SOCKET, Envelope, Registration, Reply, Request};
use rustix::io::Errno;
use rustix::net::{RecvFlags, getsockname, recv, sockopt};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use shm::{Access, Operation, ServerEnd};

/// What stands for a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    pub local: SocketAddr,
    pub foreign: SocketAddr,
    pub peer: Option<SocketAddr>,
    pub flags: u32,
}

/// What is told and what has come of it.
#[derive(Default)]
pub struct Script {
    /// The lines of the answer to `registrations`.
    pub lines: Vec<Vec<Registration>>,
    /// With which errno to refuse; 0: not.
    pub refuse: i32,
    /// What stands, by the socket's cookie.
    pub standing: HashMap<u64, Standing>,
    /// How many were taken back.
    pub unassigned: usize,
}

/// A running one. Dropped, it ends.
pub struct Scripted {
    script: Arc<Mutex<Script>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Scripted {
    /// Serves in this directory, with these lines to answer.
    pub fn start(dir: &Path, lines: Vec<Vec<Registration>>) -> Self {
        let script = Arc::new(Mutex::new(Script {
            lines,
            ..Script::default()
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let serve = |name: &str, talk: fn(UnixStream, &Mutex<Script>, &AtomicBool)| {
            let listener = UnixListener::bind(dir.join(name)).unwrap();
            let (script, stop) = (Arc::clone(&script), Arc::clone(&stop));
            thread::spawn(move || accept(&listener, &script, &stop, talk))
        };
        let control = serve(CONTROL_SOCKET, converse);
        let client = serve(CLIENT_SOCKET, serve_channel);
        let threads = vec![control, client];
        Self {
            script,
            stop,
            threads,
        }
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap()
    }

    /// The only one that stands, as soon as one does.
    pub fn await_standing(&self) -> Standing {
        let mut found = None;
        eventually("a registration stands", || {
            found = self.script().standing.values().next().copied();
            found.is_some()
        });
        assert_eq!(self.script().standing.len(), 1);
        found.unwrap()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(thread::panicking() || ended.is_ok(), "the daemon panicked");
        }
    }
}

/// Waits until it is so, for ten seconds.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// The next line, or what there is at the end. Waits for ten seconds.
pub fn line<R: Read + AsFd>(from: &mut BufReader<R>) -> String {
    if from.buffer().is_empty() {
        let mut ready = [PollFd::new(from.get_ref().as_fd(), PollFlags::POLLIN)];
        let found = poll(&mut ready, PollTimeout::from(10_000_u16)).unwrap();
        assert!(found > 0, "never said a word more");
    }
    let mut line = String::new();
    from.read_line(&mut line).unwrap();
    line
}

fn accept(
    listener: &UnixListener,
    script: &Arc<Mutex<Script>>,
    stop: &Arc<AtomicBool>,
    talk: fn(UnixStream, &Mutex<Script>, &AtomicBool),
) {
    listener.set_nonblocking(true).unwrap();
    let mut talks: Vec<JoinHandle<()>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let (script, stop) = (Arc::clone(script), Arc::clone(stop));
                talks.push(thread::spawn(move || talk(stream, &script, &stop)));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    for talk in talks {
        talk.join().unwrap();
    }
}

fn converse(stream: UnixStream, script: &Mutex<Script>, stop: &AtomicBool) {
    let mut out = stream.try_clone().unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(20)))
        .unwrap();
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match lines.read_until(b'\n', &mut line) {
            Ok(0) => return,
            Err(_) => continue,
            Ok(_) => {}
        }
        assert_eq!(Envelope::parse(&line), Ok(Request::Registrations));
        line.clear();
        let answer = script.lock().unwrap().lines.clone();
        let last = answer.len().saturating_sub(1);
        for (at, registrations) in answer.into_iter().enumerate() {
            let more = at < last;
            let reply = Reply::Registrations {
                registrations,
                more,
            };
            out.write_all(&protocol::line(&reply).unwrap()).unwrap();
        }
    }
}

fn serve_channel(stream: UnixStream, script: &Mutex<Script>, stop: &AtomicBool) {
    let mut line = Vec::new();
    BufReader::new(&stream)
        .read_until(b'\n', &mut line)
        .unwrap();
    assert_eq!(Envelope::parse(&line), Ok(Request::Channel));
    let peer = sockopt::socket_peercred(&stream).unwrap().pid;
    let (mut end, handover) = ServerEnd::create().unwrap();
    handover.send(&stream).unwrap();
    drop(handover);
    stream.set_nonblocking(true).unwrap();
    while !stop.load(Ordering::Relaxed) && !is_gone(&stream) {
        let served = end.serve(|request| answer(&mut script.lock().unwrap(), peer, request));
        if served.unwrap() == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Whether the other side has hung up.
fn is_gone(stream: &UnixStream) -> bool {
    let mut byte = [0];
    let peeked = recv(stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
    peeked.is_ok_and(|(read, _)| read == 0)
}

fn answer(script: &mut Script, peer: Pid, request: &shm::Request) -> shm::Reply {
    let refused = |errno: Errno| shm::Reply::refused(errno.raw_os_error());
    let Ok(socket) = fetch(peer, request.fd) else {
        return refused(Errno::BADF);
    };
    let cookie = sockopt::socket_cookie(&socket).unwrap();
    let found = script.standing.get(&cookie).copied();
    let done = shm::Reply::default();
    match (request.operation, request.access, found) {
        (Operation::AssignFlags, _, _) if script.refuse != 0 => shm::Reply::refused(script.refuse),
        (Operation::AssignFlags, _, Some(_)) => refused(Errno::EXIST),
        (Operation::AssignFlags, _, None) => {
            let standing = Standing {
                local: local(socket.as_fd()),
                foreign: request.foreign.unwrap(),
                peer: request.peer,
                flags: request.flags,
            };
            script.standing.insert(cookie, standing);
            done
        }
        (_, _, None) => refused(Errno::NOENT),
        (Operation::Unassign, _, Some(_)) => {
            script.standing.remove(&cookie);
            script.unassigned += 1;
            done
        }
        (Operation::Flags, Access::Get, Some(standing)) => shm::Reply {
            flags: standing.flags,
            ..done
        },
        _ => refused(Errno::NOPROTOOPT),
    }
}

fn fetch(pid: Pid, fd: i32) -> rustix::io::Result<OwnedFd> {
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    pidfd_getfd(process, fd, PidfdGetfdFlags::empty())
}

fn local(socket: BorrowedFd<'_>) -> SocketAddr {
    getsockname(socket).unwrap().try_into().unwrap()
}
