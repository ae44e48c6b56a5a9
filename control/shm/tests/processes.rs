//! Two processes: one dies in the middle of a call, or forks. This program starts itself again
//! as the other process, so it has its own `main`.

#![cfg(not(loom))]

use std::env;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitOptions, getpid, waitpid};
use shm::{
    Access, Call, CallError, ClientEnd, Handover, Operation, Reply, Request, ServerEnd, Violation,
};

/// Says to be the other process, and which; the socket's path is the argument.
const ROLE: &str = "XTPROXY_SHM_TEST_ROLE";
const SOON: Duration = Duration::from_secs(10);

fn main() {
    let path = env::args().nth(1).unwrap_or_default();
    match env::var(ROLE).as_deref() {
        Ok("caller") => caller(Path::new(&path)),
        Ok("forker") => forker(Path::new(&path)),
        Ok("server") => mute_server(Path::new(&path)),
        Ok(other) => panic!("{ROLE}={other} is no role"),
        Err(_) => {
            run("a client killed in a call is hung up", killed_client);
            run("a server killed in a call is noticed", killed_server);
            run("a forked child has no part in the channel", forked_client);
        }
    }
}

fn run(name: &str, test: fn()) {
    test();
    println!("test {name} ... ok");
}

/// The other process. It does not outlive this value.
struct Other(Child);

impl Other {
    /// Starts it, and waits until it has connected.
    fn start(role: &str) -> (Self, UnixStream) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let child = Command::new(env::current_exe().unwrap())
            .arg(&path)
            .env(ROLE, role)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut other = Self(child);
        listener.set_nonblocking(true).unwrap();
        let start = Instant::now();
        loop {
            if let Ok((socket, _)) = listener.accept() {
                socket.set_nonblocking(false).unwrap();
                return (other, socket);
            }
            assert!(other.0.try_wait().unwrap().is_none(), "it ended early");
            assert!(start.elapsed() < SOON, "it does not connect");
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        assert_eq!(self.0.wait().unwrap().signal(), Some(9));
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether there is something to read, or the peer has hung up.
fn ready(fd: impl std::os::fd::AsFd, flags: PollFlags, within: Duration) -> bool {
    let within = Timespec::try_from(within).unwrap();
    let mut fds = [PollFd::new(&fd, flags)];
    poll(&mut fds, Some(&within)).unwrap() == 1
}

/// Serves until there is a call, and takes it.
fn take(server: &mut ServerEnd) -> Result<Call, Violation> {
    let start = Instant::now();
    loop {
        server.collect()?;
        if let Some(call) = server.take()? {
            return Ok(call);
        }
        assert!(start.elapsed() < SOON, "nobody calls");
        if server.rest() {
            ready(&*server, PollFlags::IN, Duration::from_millis(100));
        }
    }
}

fn request(tag: u64) -> Request {
    let mut request = Request::new(Operation::Query, Access::Get, 5);
    request.tag = tag;
    request
}

fn open(path: &Path) -> (ClientEnd, UnixStream) {
    let socket = UnixStream::connect(path).unwrap();
    let handover = Handover::receive(&socket).unwrap();
    let kept: OwnedFd = socket.try_clone().unwrap().into();
    (ClientEnd::map(handover, kept).unwrap(), socket)
}

// A client that is killed.

fn caller(path: &Path) {
    let (client, _socket) = open(path);
    let _ = client.call_within(&request(1), Duration::from_secs(60));
}

fn killed_client() {
    let (mut other, socket) = Other::start("caller");
    let (mut server, handover) = ServerEnd::create().unwrap();
    handover.send(&socket).unwrap();
    drop(handover);
    let call = take(&mut server).unwrap();
    assert_eq!(call.request.unwrap().tag, 1);
    let gone = PollFlags::RDHUP | PollFlags::HUP;
    assert!(!ready(&socket, gone, Duration::ZERO), "it lives");
    other.kill();
    assert!(ready(&socket, gone, Duration::from_secs(1)));
    // The memory is still ours, so an answer that was under way does no harm.
    server.reply(call.ticket, &Reply::default());
    assert_eq!(server.collect(), Ok(0));
    assert!(server.rest());
}

// A server that is killed.

fn mute_server(path: &Path) {
    let mut socket = UnixStream::connect(path).unwrap();
    let (mut server, handover) = ServerEnd::create().unwrap();
    handover.send(&socket).unwrap();
    let _call = take(&mut server).unwrap();
    socket.write_all(b"t").unwrap();
    thread::sleep(Duration::from_secs(60));
}

fn killed_server() {
    let (mut other, mut socket) = Other::start("server");
    let handover = Handover::receive(&socket).unwrap();
    let kept: OwnedFd = socket.try_clone().unwrap().into();
    let client = ClientEnd::map(handover, kept).unwrap();
    thread::scope(|scope| {
        let calling = scope.spawn(|| client.call(&request(1)));
        socket.read_exact(&mut [0]).unwrap();
        let start = Instant::now();
        other.kill();
        let closed = calling.join().unwrap();
        assert!(matches!(closed, Err(CallError::Closed)), "{closed:?}");
        assert!(start.elapsed() < Duration::from_secs(2));
    });
    let start = Instant::now();
    let closed = client.call(&request(2));
    assert!(matches!(closed, Err(CallError::Closed)), "{closed:?}");
    assert!(start.elapsed() < Duration::from_millis(40), "known by now");
}

// A client that forks.

fn forker(path: &Path) {
    let (client, mut socket) = open(path);
    assert_eq!(client.call(&request(1)).unwrap().tag, 1);
    let parent = getpid();
    // SAFETY: this process has one thread.
    let child = unsafe { libc::fork() };
    if child == 0 {
        assert_ne!(getpid(), parent);
        let refused = matches!(client.call(&request(2)), Err(CallError::Forked));
        std::process::exit(if refused { 7 } else { 8 });
    }
    let child = Pid::from_raw(child).unwrap();
    let (_, status) = waitpid(Some(child), WaitOptions::empty()).unwrap().unwrap();
    assert_eq!(status.exit_status(), Some(7), "the child may not call");
    assert_eq!(client.call(&request(3)).unwrap().tag, 3);
    socket.write_all(b"d").unwrap();
}

fn forked_client() {
    let (mut other, socket) = Other::start("forker");
    let (mut server, handover) = ServerEnd::create().unwrap();
    handover.send(&socket).unwrap();
    for expected in [1, 3] {
        let call = take(&mut server).unwrap();
        assert_eq!(
            call.request.unwrap().tag,
            expected,
            "the child posted nothing"
        );
        server.reply(call.ticket, &Reply::default());
    }
    assert!(other.0.wait().unwrap().success());
    assert!(
        ready(&socket, PollFlags::IN, Duration::ZERO),
        "it came to its end"
    );
}
