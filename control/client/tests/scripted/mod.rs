//! A daemon that speaks the channel and answers what a script says.

#![allow(dead_code, reason = "no test file needs all of it")]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use shm::{Reply, Request, ServerEnd};

/// How long a test waits for anything.
pub const SOON: Duration = Duration::from_secs(10);

/// What a script says to a request.
pub enum Say {
    /// This.
    Reply(Reply),
    /// Nothing: the daemon dies with the call.
    Die,
    /// Not yet: the script is asked again later, with the same request.
    Later,
}

impl From<Reply> for Say {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

/// Answers with this errno.
pub fn errno(errno: i32) -> Say {
    Reply::refused(errno).into()
}

type Script = dyn FnMut(&Request) -> Say + Send;

/// A running daemon.
pub struct Daemon {
    socket: PathBuf,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
}

struct State {
    script: Mutex<Box<Script>>,
    /// What was asked, in order.
    asked: Mutex<Vec<Request>>,
    /// How many channels were opened.
    channels: AtomicUsize,
    /// How many of them are open.
    open: AtomicUsize,
    stop: AtomicBool,
}

impl Daemon {
    /// Starts one in `dir`.
    pub fn start(dir: &Path, script: impl FnMut(&Request) -> Say + Send + 'static) -> Self {
        let socket = dir.join("client.sock");
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let state = Arc::new(State {
            script: Mutex::new(Box::new(script)),
            asked: Mutex::default(),
            channels: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&state);
        let threads = vec![thread::spawn(move || accept(&listener, &accepting))];
        Self {
            socket,
            state,
            threads,
        }
    }

    /// What was asked, since last asked for.
    pub fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut *self.state.asked.lock().unwrap())
    }

    /// How many channels were opened so far.
    pub fn channels(&self) -> usize {
        self.state.channels.load(Ordering::SeqCst)
    }

    /// Waits until so many channels are open.
    pub fn await_open(&self, expected: usize) {
        eventually("channels are closed", || {
            self.state.open.load(Ordering::SeqCst) == expected
        });
    }
}

/// As a daemon that ends in good order.
impl Drop for Daemon {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        let _ = std::fs::remove_file(&self.socket);
        for thread in self.threads.drain(..) {
            let outcome = thread.join();
            assert!(outcome.is_ok() || thread::panicking(), "the daemon failed");
        }
    }
}

/// Waits until something is so.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < SOON, "waited for: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The socket that a request of this process names, as the daemon takes it.
pub fn socket_of(request: &Request) -> OwnedFd {
    let own = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(own, request.fd, PidfdGetfdFlags::empty()).unwrap()
}

/// The local address of the socket that a request names.
pub fn local_of(request: &Request) -> SocketAddrV4 {
    let local = rustix::net::getsockname(socket_of(request)).unwrap();
    match SocketAddr::try_from(local).unwrap() {
        SocketAddr::V4(local) => local,
        SocketAddr::V6(local) => panic!("{local}"),
    }
}

fn accept(listener: &UnixListener, state: &Arc<State>) {
    let mut serving = Vec::new();
    while !state.stop.load(Ordering::SeqCst) {
        wait(listener, PollFlags::IN);
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false).unwrap();
            let state = Arc::clone(state);
            serving.push(thread::spawn(move || serve(stream, &state)));
        }
    }
    for thread in serving {
        thread.join().unwrap();
    }
}

fn wait(fd: impl AsFd, flags: PollFlags) {
    let most = Timespec::try_from(Duration::from_millis(20)).unwrap();
    let _ = poll(&mut [PollFd::new(&fd, flags)], Some(&most));
}

fn serve(stream: UnixStream, state: &State) {
    let mut line = String::new();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut reader = BufReader::new(&stream);
    if !matches!(reader.read_line(&mut line), Ok(1..)) {
        return;
    }
    assert_eq!(line, "{\"version\":1,\"request\":\"channel\"}\n");
    let (end, handover) = ServerEnd::create().unwrap();
    if handover.send(&stream).is_err() {
        return;
    }
    drop(handover);
    state.channels.fetch_add(1, Ordering::SeqCst);
    state.open.fetch_add(1, Ordering::SeqCst);
    answer(end, &stream, state);
    state.open.fetch_sub(1, Ordering::SeqCst);
}

/// Answers until the client hangs up, or the daemon ends.
fn answer(mut end: ServerEnd, stream: &UnixStream, state: &State) {
    let mut held = Vec::new();
    while !state.stop.load(Ordering::SeqCst) {
        end.collect().unwrap();
        while let Some(call) = end.take().unwrap() {
            let request = call.request.unwrap();
            state.asked.lock().unwrap().push(request);
            held.push((call.ticket, request));
        }
        for (ticket, request) in std::mem::take(&mut held) {
            let said = (state.script.lock().unwrap())(&request);
            match said {
                Say::Reply(reply) => end.reply(ticket, &reply),
                Say::Die => return,
                Say::Later => held.push((ticket, request)),
            }
        }
        if has_hung_up(stream) {
            return;
        }
        if held.is_empty() && end.rest() {
            wait(&end, PollFlags::IN);
        }
    }
}

fn has_hung_up(stream: &UnixStream) -> bool {
    let now = Timespec::try_from(Duration::ZERO).unwrap();
    poll(&mut [PollFd::new(stream, PollFlags::RDHUP)], Some(&now)).unwrap() > 0
}

/// A daemon that does something else to each connection than to open a channel.
pub fn stranger(dir: &Path, say: &'static [u8]) -> JoinHandle<()> {
    let listener = UnixListener::bind(dir.join("client.sock")).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        stream.write_all(say).unwrap();
    })
}
