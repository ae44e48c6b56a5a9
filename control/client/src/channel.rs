//! The channel to the control thread, made anew when it breaks.
//!
//! Invariant: no lock. A process can fork while another of its threads is anywhere in here, and
//! the child must get on.

use std::io;
use std::os::fd::RawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use protocol::{Envelope, REPLY_MAX_BYTES};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use shm::{CallError, ClientEnd, Handover, MapError, Reply, Request};

use crate::blocking::read_line;
use crate::descriptor::above_standard;
use crate::error::{read_reply, unexpected};
use crate::folder::Folder;
use crate::{Error, Result};

/// How long a client that had a channel and lost it looks for the next daemon, counted from when
/// it first missed one.
const RESTART: Duration = Duration::from_secs(3);

/// How long it rests before it looks again.
const REST: Duration = Duration::from_millis(20);

/// The channel of this process.
#[derive(Debug)]
pub(crate) struct Channel {
    folder: Folder,
    /// Nothing before the first contact.
    end: ArcSwapOption<ClientEnd>,
    created: Instant,
    /// When no daemon was found any more: one more than the milliseconds since `created`; 0 while
    /// there is one.
    missed: AtomicU64,
}

/// What was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub reply: Reply,
    /// The daemon went away with the call the first time: it may have been done before.
    pub asked_twice: bool,
}

impl Channel {
    /// None yet: the first call opens it.
    pub fn new(dir: &Path) -> Self {
        Self {
            folder: Folder::new(dir),
            end: ArcSwapOption::empty(),
            created: Instant::now(),
            missed: AtomicU64::new(0),
        }
    }

    /// Opens one to the daemon of this folder.
    pub fn open(dir: &Path) -> Result<Self> {
        let channel = Self::new(dir);
        channel.ready()?;
        Ok(channel)
    }

    /// Opens one, unless it was done before.
    pub fn ready(&self) -> Result<()> {
        match *self.end.load() {
            Some(_) => Ok(()),
            None => self.renew(&None).map(drop),
        }
    }

    /// What programs must not close: the ends of the channel, and what leads to the next one.
    pub fn descriptors(&self) -> Vec<RawFd> {
        let end = self.end.load();
        let ends = end.iter().flat_map(|end| end.descriptors());
        ends.chain(self.folder.descriptor()).collect()
    }

    /// Asks, a second time if the daemon was restarted. A forked child gets its own channel.
    pub fn ask(&self, request: &Request) -> Result<Answer> {
        let end = self.end.load();
        let asked_twice = match end.as_ref().map(|end| end.call(request)) {
            Some(Ok(reply)) => {
                return Ok(Answer {
                    reply,
                    asked_twice: false,
                });
            }
            Some(Err(CallError::Closed)) => true,
            Some(Err(CallError::Forked)) | None => false,
            Some(Err(error)) => return Err(self.broken(error)),
        };
        let end = self.renew(&end)?;
        let reply = end.call(request).map_err(|error| self.broken(error))?;
        Ok(Answer { reply, asked_twice })
    }

    /// The channel after `stale`: what another thread has opened, or a new one. A daemon that is
    /// being restarted is waited for, unless there never was one.
    fn renew(&self, stale: &Option<Arc<ClientEnd>>) -> Result<Arc<ClientEnd>> {
        loop {
            if let Some(end) = self.opened_since(stale) {
                return Ok(end);
            }
            let error = match establish(&self.folder) {
                Ok(end) => return Ok(self.keep(stale, Arc::new(end))),
                Err(error) => error,
            };
            if let Some(end) = self.opened_since(stale) {
                return Ok(end);
            }
            if stale.is_none() || !error.is_absence() || self.missed_for() >= RESTART {
                return Err(error);
            }
            thread::sleep(REST);
        }
    }

    fn opened_since(&self, stale: &Option<Arc<ClientEnd>>) -> Option<Arc<ClientEnd>> {
        let now = self.end.load_full()?;
        let is_stale = stale.as_ref().is_some_and(|stale| Arc::ptr_eq(stale, &now));
        (!is_stale).then_some(now)
    }

    /// Several threads may get here at once: one channel stays, the others close.
    fn keep(&self, stale: &Option<Arc<ClientEnd>>, end: Arc<ClientEnd>) -> Arc<ClientEnd> {
        self.missed.store(0, Ordering::Relaxed);
        self.end.compare_and_swap(stale, Some(Arc::clone(&end)));
        self.opened_since(stale).unwrap_or(end)
    }

    /// For how long there has been no daemon, as far as this client has noticed. All of its
    /// threads and calls share it: who comes when the time is over is not held up.
    fn missed_for(&self) -> Duration {
        let now = u64::try_from(self.created.elapsed().as_millis()).map_or(u64::MAX, |ms| ms + 1);
        let (new, order) = (now, Ordering::Relaxed);
        let since = match self.missed.compare_exchange(0, new, order, order) {
            Ok(_) => now,
            Err(since) => since,
        };
        Duration::from_millis(now.saturating_sub(since))
    }

    fn broken(&self, error: CallError) -> Error {
        let source = match error {
            CallError::Closed => io::ErrorKind::UnexpectedEof.into(),
            CallError::TimedOut => io::ErrorKind::TimedOut.into(),
            CallError::Garbled => return Error::Nonsense(error.to_string()),
            CallError::Forked => io::Error::from(error),
            CallError::System(source) => source,
        };
        Error::talking(self.folder.socket(), source)
    }
}

/// Asks the daemon for a channel.
fn establish(folder: &Folder) -> Result<ClientEnd> {
    let talking = |e| Error::talking(folder.socket(), e);
    let mut stream = folder.connect()?;
    let line = protocol::line(&Envelope::new(protocol::Request::Channel));
    let line = line.map_err(|e| talking(e.into()))?;
    match send_all(&stream, &line) {
        // The daemon may have said why before it closed.
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(talking(e)),
        _ => {}
    }
    if is_line(&stream).map_err(talking)? {
        let line = read_line(&mut stream, REPLY_MAX_BYTES).map_err(talking)?;
        read_reply(&line)?;
        return Err(unexpected());
    }
    let told = |error| match error {
        MapError::System(source) => talking(source),
        MapError::HungUp => talking(io::ErrorKind::UnexpectedEof.into()),
        other => Error::Nonsense(other.to_string()),
    };
    let mut handover = Handover::receive(&stream).map_err(told)?;
    handover.doorbell = above_standard(handover.doorbell).map_err(talking)?;
    let socket = above_standard(stream.into()).map_err(talking)?;
    ClientEnd::map(handover, socket).map_err(told)
}

/// Sends a line. No signal: a program in C dies of SIGPIPE.
fn send_all(stream: &UnixStream, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match send(stream, line, SendFlags::NOSIGNAL) {
            Ok(sent) => line = &line[sent..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Whether a line was answered, which is a refusal: a channel comes as another message.
fn is_line(stream: &UnixStream) -> io::Result<bool> {
    let mut first = [0];
    loop {
        match recv(stream, &mut first, RecvFlags::PEEK) {
            Ok(_) => return Ok(first == *b"{"),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
