//! A conversation with the daemon whose answers come in several lines, or late.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use protocol::{CONTROL_SOCKET, Envelope, REPLY_MAX_BYTES, Reply, Request};
use xtproxy_client::Error;

use crate::run::Failed;

/// How long the daemon may be silent.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);

/// A connection to the control socket.
pub(crate) struct Conversation {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
    /// A line that has begun.
    line: Vec<u8>,
}

impl Conversation {
    /// Connects to the daemon of this runtime directory.
    pub(crate) fn open(runtime_dir: &Path) -> Result<Self, Failed> {
        let socket = runtime_dir.join(CONTROL_SOCKET);
        let stream = UnixStream::connect(&socket).map_err(|source| {
            let socket = socket.clone();
            match source.kind() {
                std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                    Error::NoDaemon { socket, source }
                }
                std::io::ErrorKind::PermissionDenied => Error::Denied { socket },
                _ => Error::Io { socket, source },
            }
        })?;
        let conversation = Self {
            socket,
            stream: BufReader::with_capacity(256 * 1024, stream),
            line: Vec::new(),
        };
        let set = (conversation.stream.get_ref()).set_write_timeout(Some(SILENCE));
        match set {
            Ok(()) => Ok(conversation),
            Err(source) => Err(conversation.broken(source)),
        }
    }

    /// Asks, without waiting for an answer.
    pub(crate) fn send(&mut self, request: Request) -> Result<(), Failed> {
        use std::io::ErrorKind::{BrokenPipe, ConnectionReset};
        let sent = protocol::line(&Envelope::new(request))
            .map_err(Into::into)
            .and_then(|line| self.stream.get_mut().write_all(&line));
        match sent {
            // The daemon may have said why before it closed: let it be read.
            Err(error) if matches!(error.kind(), BrokenPipe | ConnectionReset) => Ok(()),
            sent => sent.map_err(|source| self.broken(source)),
        }
    }

    /// The next reply; none if it has not come within this time. A failure is an error.
    pub(crate) fn next(&mut self, within: Duration) -> Result<Option<Reply>, Failed> {
        use std::io::ErrorKind::{Interrupted, TimedOut, UnexpectedEof, WouldBlock};
        let deadline = Instant::now() + within;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // Zero would mean: for ever.
            let left = left.max(Duration::from_millis(1));
            let set = self.stream.get_ref().set_read_timeout(Some(left));
            set.map_err(|source| self.broken(source))?;
            let most = (REPLY_MAX_BYTES - self.line.len().min(REPLY_MAX_BYTES)) as u64;
            let read = (&mut self.stream)
                .take(most)
                .read_until(b'\n', &mut self.line);
            match read {
                Ok(_) if self.line.ends_with(b"\n") => break,
                Ok(_) if self.line.len() >= REPLY_MAX_BYTES => {
                    return Err(Error::Nonsense("a line without end".into()).into());
                }
                Ok(_) => {
                    let what = "the daemon closed the connection";
                    return Err(self.broken(std::io::Error::new(UnexpectedEof, what)));
                }
                Err(error) if matches!(error.kind(), WouldBlock | TimedOut | Interrupted) => {
                    if Instant::now() >= deadline {
                        return Ok(None);
                    }
                }
                Err(source) => return Err(self.broken(source)),
            }
        }
        let line = std::mem::take(&mut self.line);
        match serde_json::from_slice(&line) {
            Ok(Reply::Error(failure)) => Err(Error::from(failure).into()),
            Ok(reply) => Ok(Some(reply)),
            Err(error) => Err(Error::Nonsense(error.to_string()).into()),
        }
    }

    /// The next reply, which is due within this time.
    pub(crate) fn await_next(&mut self, within: Duration) -> Result<Reply, Failed> {
        self.next(within)?.ok_or_else(|| {
            let what = "the daemon does not answer in time";
            self.broken(std::io::Error::new(std::io::ErrorKind::TimedOut, what))
        })
    }

    /// Asks for what comes in one reply.
    pub(crate) fn ask(&mut self, request: Request) -> Result<Reply, Failed> {
        self.send(request)?;
        self.await_next(SILENCE)
    }

    /// Whether something has come that is not yet read.
    pub(crate) fn is_ahead(&self) -> bool {
        self.stream.buffer().contains(&b'\n')
    }

    fn broken(&self, source: std::io::Error) -> Failed {
        let socket = self.socket.clone();
        Error::Io { socket, source }.into()
    }
}

impl AsFd for Conversation {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.get_ref().as_fd()
    }
}
