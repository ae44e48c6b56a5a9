//! The client for ordinary threads.

use std::io::{self, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use protocol::{CLIENT_SOCKET, Envelope, REPLY_MAX_BYTES, Reply, Request};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::error::{read_reply, unexpected};
use crate::{Error, OriginalDestination, Result, runtime_dir};

/// How long the daemon may take for an answer.
pub(crate) const ANSWER_TIME: Duration = Duration::from_secs(5);

/// A connection to the daemon, for any number of threads.
///
/// It survives restarts of the daemon: a broken connection is made anew.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    /// The connection, while no request is under way on it.
    idle: Mutex<Option<UnixStream>>,
}

impl Client {
    /// Connects to the daemon of the directory that the environment variable
    /// `XTPROXY_RUNTIME_DIR` names, or of `/run/xtproxy`.
    ///
    /// # Errors
    /// When no daemon answers there.
    pub fn connect() -> Result<Self> {
        Self::connect_to(runtime_dir())
    }

    /// Connects to the daemon of this runtime directory.
    ///
    /// # Errors
    /// When no daemon answers there.
    pub fn connect_to(dir: impl AsRef<Path>) -> Result<Self> {
        let socket = dir.as_ref().join(CLIENT_SOCKET);
        let stream = open(&socket)?;
        Ok(Self {
            socket,
            idle: Mutex::new(Some(stream)),
        })
    }

    /// Which address did the client of this accepted TCP socket want, and what is its own?
    ///
    /// # Errors
    /// [`Error::NotRedirected`] when the client wanted the proxy's own address;
    /// [`Error::BadSocket`] when this is no connected TCP socket of the daemon's network
    /// namespace; others when the daemon cannot be reached.
    pub fn original_destination(&self, accepted: &impl AsFd) -> Result<OriginalDestination> {
        let idle = self.lock().take();
        let first = idle.map(|stream| self.ask_on(stream, accepted.as_fd()));
        match first {
            Some(Err(error)) if error.is_broken_connection() => {}
            Some(answer) => return answer,
            None => {}
        }
        self.ask_on(open(&self.socket)?, accepted.as_fd())
    }

    /// Asks, and keeps the connection for the next request if all of the answer was read.
    fn ask_on(&self, mut stream: UnixStream, fd: BorrowedFd<'_>) -> Result<OriginalDestination> {
        let line = ask(&mut stream, fd).map_err(|e| Error::talking(&self.socket, e))?;
        *self.lock() = Some(stream);
        read_answer(&line)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<UnixStream>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to the daemon's socket, with a limit to its silence.
pub(crate) fn open(socket: &Path) -> Result<UnixStream> {
    let stream = UnixStream::connect(socket).map_err(|e| Error::connecting(socket, e))?;
    limited(stream, socket)
}

/// Limits how long the daemon behind `socket` may be silent.
pub(crate) fn limited(stream: UnixStream, socket: &Path) -> Result<UnixStream> {
    stream
        .set_read_timeout(Some(ANSWER_TIME))
        .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIME)))
        .map_err(|e| Error::talking(socket, e))?;
    Ok(stream)
}

fn ask(stream: &mut UnixStream, fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let line = question()?;
    let sent = send_with(stream.as_fd(), &line, fd)?;
    stream.write_all(&line[sent..])?;
    read_line(stream, REPLY_MAX_BYTES)
}

/// The request's line.
pub(crate) fn question() -> io::Result<Vec<u8>> {
    Ok(protocol::line(&Envelope::new(
        Request::OriginalDestination,
    ))?)
}

/// The answer to [`question`].
pub(crate) fn read_answer(line: &[u8]) -> Result<OriginalDestination> {
    match read_reply(line)? {
        Reply::OriginalDestination {
            source,
            destination,
        } => Ok(OriginalDestination {
            source,
            destination,
        }),
        _ => Err(unexpected()),
    }
}

/// Sends the beginning of `line` with `fd` attached to it; says how much was sent.
pub(crate) fn send_with(to: BorrowedFd<'_>, line: &[u8], fd: BorrowedFd<'_>) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    if !attached.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    Ok(sendmsg(
        to,
        &[IoSlice::new(line)],
        &mut attached,
        SendFlags::NOSIGNAL,
    )?)
}

/// Reads until a newline, which must be the last byte there is: one reply per request.
pub(crate) fn read_line(stream: &mut UnixStream, max_bytes: usize) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let read = match stream.read(&mut chunk) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        line.extend_from_slice(&chunk[..read]);
        if line.ends_with(b"\n") {
            return Ok(line);
        }
        if line.len() > max_bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the answer is too long",
            ));
        }
    }
}
