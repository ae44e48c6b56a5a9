//! The client for tokio's tasks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use protocol::{CLIENT_SOCKET, REPLY_MAX_BYTES};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::blocking::{ANSWER_TIME, question, read_answer, send_with};
use crate::{Error, OriginalDestination, Result, runtime_dir};

/// A connection to the daemon, for any number of tasks of one tokio runtime.
///
/// It survives restarts of the daemon: a broken connection is made anew.
#[derive(Debug)]
pub struct AsyncClient {
    socket: PathBuf,
    /// The connection. It is taken out while a request is under way and comes back with
    /// the answer, so that a request which is cancelled half-way takes it along.
    idle: Mutex<Option<UnixStream>>,
}

impl AsyncClient {
    /// As [`Client::connect`](crate::Client::connect).
    ///
    /// # Errors
    /// When no daemon answers there.
    pub async fn connect() -> Result<Self> {
        Self::connect_to(runtime_dir()).await
    }

    /// As [`Client::connect_to`](crate::Client::connect_to).
    ///
    /// # Errors
    /// When no daemon answers there.
    pub async fn connect_to(dir: impl AsRef<Path>) -> Result<Self> {
        let socket = dir.as_ref().join(CLIENT_SOCKET);
        let stream = open(&socket).await?;
        Ok(Self {
            socket,
            idle: Mutex::new(Some(stream)),
        })
    }

    /// As [`Client::original_destination`](crate::Client::original_destination).
    ///
    /// # Errors
    /// The same.
    pub async fn original_destination(&self, accepted: &impl AsFd) -> Result<OriginalDestination> {
        let fd = accepted.as_fd();
        // Held to the end: requests of many tasks take turns on one connection.
        let mut idle = self.idle.lock().await;
        if let Some(stream) = idle.take() {
            match self.ask_on(&mut idle, stream, fd).await {
                Err(error) if error.is_broken_connection() => {}
                answer => return answer,
            }
        }
        let stream = open(&self.socket).await?;
        self.ask_on(&mut idle, stream, fd).await
    }

    async fn ask_on(
        &self,
        idle: &mut Option<UnixStream>,
        mut stream: UnixStream,
        fd: BorrowedFd<'_>,
    ) -> Result<OriginalDestination> {
        let line = timeout(ANSWER_TIME, ask(&mut stream, fd))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|e| Error::talking(&self.socket, e))?;
        *idle = Some(stream);
        read_answer(&line)
    }
}

async fn open(socket: &Path) -> Result<UnixStream> {
    UnixStream::connect(socket)
        .await
        .map_err(|e| Error::connecting(socket, e))
}

async fn ask(stream: &mut UnixStream, fd: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    let line = question()?;
    let sent = stream
        .async_io(Interest::WRITABLE, || send_with(stream.as_fd(), &line, fd))
        .await?;
    stream.write_all(&line[sent..]).await?;
    let mut answer = Vec::new();
    // What the reader would read ahead is nothing: one reply per request.
    let mut reader = BufReader::new(stream).take(REPLY_MAX_BYTES as u64);
    reader.read_until(b'\n', &mut answer).await?;
    if answer.ends_with(b"\n") {
        Ok(answer)
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}
