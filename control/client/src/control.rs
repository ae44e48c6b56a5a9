//! The connection for root, which `xtproxy` is made of.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::{CONTROL_SOCKET, Envelope, Flow, FlowFilter, REPLY_MAX_BYTES, Reply, Request};

use crate::error::{read_reply, unexpected};
use crate::{Error, Result};

/// How long the daemon may be silent; longer than for proxies, because it may be busy
/// with a long list.
const SILENCE: Duration = Duration::from_secs(30);

/// A connection to the daemon's control socket.
#[derive(Debug)]
pub struct Control {
    socket: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Control {
    /// Connects to the daemon of this runtime directory.
    ///
    /// # Errors
    /// When no daemon answers there, or this user may not ask it.
    pub fn connect_to(dir: impl AsRef<Path>) -> Result<Self> {
        let socket = dir.as_ref().join(CONTROL_SOCKET);
        let stream = UnixStream::connect(&socket).map_err(|e| Error::connecting(&socket, e))?;
        stream
            .set_read_timeout(Some(SILENCE))
            .and_then(|()| stream.set_write_timeout(Some(SILENCE)))
            .map_err(|e| Error::talking(&socket, e))?;
        Ok(Self {
            socket,
            stream: BufReader::with_capacity(256 * 1024, stream),
        })
    }

    /// Asks for what comes in one reply.
    ///
    /// # Errors
    /// When the daemon refuses, or the connection breaks.
    pub fn ask(&mut self, request: Request) -> Result<Reply> {
        self.send(request)?;
        self.receive()
    }

    /// Lists the flows that match, handing them on as they come.
    ///
    /// # Errors
    /// When the daemon refuses, the connection breaks, or `take` fails.
    pub fn flows<E: From<Error>>(
        &mut self,
        filter: FlowFilter,
        mut take: impl FnMut(Vec<Flow>) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        self.send(Request::FlowsList { filter })?;
        loop {
            let Reply::Flows { flows, more } = self.receive()? else {
                return Err(unexpected().into());
            };
            take(flows)?;
            if !more {
                return Ok(());
            }
        }
    }

    fn send(&mut self, request: Request) -> Result<()> {
        let line = protocol::line(&Envelope::new(request))
            .map_err(|e| Error::talking(&self.socket, e.into()))?;
        let sent = self.stream.get_mut().write_all(&line);
        match sent.map_err(|e| Error::talking(&self.socket, e)) {
            // The daemon may have said why before it closed: let it be read.
            Err(error) if error.is_broken_connection() => Ok(()),
            sent => sent,
        }
    }

    fn receive(&mut self) -> Result<Reply> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(REPLY_MAX_BYTES as u64);
        limited
            .read_until(b'\n', &mut line)
            .map_err(|e| Error::talking(&self.socket, e))?;
        if line.ends_with(b"\n") {
            read_reply(&line)
        } else if line.len() >= REPLY_MAX_BYTES {
            Err(Error::Nonsense("a line without end".into()))
        } else {
            Err(Error::talking(
                &self.socket,
                std::io::ErrorKind::UnexpectedEof.into(),
            ))
        }
    }
}
