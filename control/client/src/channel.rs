//! The channel to the control thread, made anew when it breaks.
//!
//! Invariant: no lock. A process can fork while another of its threads is anywhere in here, and
//! the child must get on.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use protocol::{Envelope, REPLY_MAX_BYTES};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use shm::{CallError, ClientEnd, Handover, MapError, Reply, Request};

use crate::blocking::{open, read_line};
use crate::error::{read_reply, unexpected};
use crate::{Error, Result};

/// The channel of this process.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: PathBuf,
    end: ArcSwap<ClientEnd>,
}

/// What was answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub reply: Reply,
    /// The daemon went away with the call the first time: it may have been done before.
    pub asked_twice: bool,
}

impl Channel {
    /// Opens one over the socket of this path.
    pub fn open(socket: PathBuf) -> Result<Self> {
        let end = ArcSwap::from_pointee(establish(&socket)?);
        Ok(Self { socket, end })
    }

    /// The ends of the channel that programs must not close.
    pub fn end(&self) -> Arc<ClientEnd> {
        self.end.load_full()
    }

    /// Asks, a second time if the daemon was restarted. A forked child gets its own channel.
    pub fn ask(&self, request: &Request) -> Result<Answer> {
        let end = self.end.load();
        let (end, asked_twice) = match end.call(request) {
            Ok(reply) => {
                return Ok(Answer {
                    reply,
                    asked_twice: false,
                });
            }
            Err(CallError::Closed) => (self.renew(&end)?, true),
            Err(CallError::Forked) => (self.renew(&end)?, false),
            Err(error) => return Err(self.broken(error)),
        };
        let reply = end.call(request).map_err(|error| self.broken(error))?;
        Ok(Answer { reply, asked_twice })
    }

    /// The channel after `stale`: what another thread has opened, or a new one.
    fn renew(&self, stale: &Arc<ClientEnd>) -> Result<Arc<ClientEnd>> {
        let other = || Some(self.end.load_full()).filter(|end| !Arc::ptr_eq(end, stale));
        if let Some(end) = other() {
            return Ok(end);
        }
        match establish(&self.socket) {
            Ok(end) => {
                let end = Arc::new(end);
                let before = self.end.compare_and_swap(stale, Arc::clone(&end));
                // Several threads may get here at once: one channel stays, the others close.
                let is_first = Arc::ptr_eq(&before, stale);
                Ok(if is_first { end } else { Arc::clone(&before) })
            }
            Err(error) => other().ok_or(error),
        }
    }

    fn broken(&self, error: CallError) -> Error {
        let source = match error {
            CallError::Closed => io::ErrorKind::UnexpectedEof.into(),
            CallError::TimedOut => io::ErrorKind::TimedOut.into(),
            CallError::Garbled => return Error::Nonsense(error.to_string()),
            CallError::Forked => io::Error::from(error),
            CallError::System(source) => source,
        };
        Error::talking(&self.socket, source)
    }
}

/// Asks the daemon for a channel.
fn establish(socket: &Path) -> Result<ClientEnd> {
    let talking = |e| Error::talking(socket, e);
    let mut stream = open(socket)?;
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
    let handover = Handover::receive(&stream).map_err(told)?;
    ClientEnd::map(handover, stream.into()).map_err(told)
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
