//! Copies both ways between two TCP connections, passing on ends and aborts.
//!
//! Invariant: a side that closes its half closes the other side's half after the last
//! byte; a side that resets makes the other side reset.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::sleep;

/// Bytes in flight for each direction.
const BUFFER_BYTES: usize = 128 * 1024;

/// How a pair of connections ended.
pub(crate) struct Ended {
    /// Bytes from the first to the second.
    pub(crate) up: u64,
    /// Bytes from the second to the first.
    pub(crate) down: u64,
    /// What broke it, if it did not end by both sides closing.
    pub(crate) error: Option<io::Error>,
}

/// Copies until both sides have closed, one has broken, or nothing has moved either way for
/// as long as `idle`.
pub(crate) async fn copy_both(
    mut client: TcpStream,
    mut server: TcpStream,
    idle: Option<Duration>,
) -> Ended {
    let (up, down) = (AtomicU64::new(0), AtomicU64::new(0));
    let done = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let copying = async {
            tokio::try_join!(
                copy(client_read, server_write, &up),
                copy(server_read, client_write, &down),
            )
        };
        tokio::select! {
            done = copying => done,
            error = silence(idle, &up, &down) => Err(error),
        }
    };
    let error = done.err();
    if error.is_some() {
        // Closing with a linger time of zero sends a reset instead of a FIN.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
    let (up, down) = (up.into_inner(), down.into_inner());
    Ended { up, down, error }
}

async fn copy(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, bytes: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return to.shutdown().await;
        }
        // A write can wait for long: a reset of the reading side must not wait with it.
        tokio::select! {
            biased;
            written = to.write_all(&buffer[..read]) => written?,
            error = broken(&from) => return Err(error),
        }
        bytes.fetch_add(read as u64, Ordering::Relaxed);
    }
}

/// Ends when no byte has moved for this long, or never.
async fn silence(idle: Option<Duration>, up: &AtomicU64, down: &AtomicU64) -> io::Error {
    let Some(idle) = idle else {
        return std::future::pending().await;
    };
    let moved = || up.load(Ordering::Relaxed) + down.load(Ordering::Relaxed);
    let mut before = moved();
    loop {
        sleep(idle).await;
        let now = moved();
        if now == before {
            return io::Error::new(io::ErrorKind::TimedOut, "nothing has moved for too long");
        }
        before = now;
    }
}

/// Ends when the connection is reset.
async fn broken(stream: &ReadHalf<'_>) -> io::Error {
    let stream: &TcpStream = stream.as_ref();
    match stream.ready(Interest::ERROR).await {
        Ok(_) => match stream.take_error() {
            Ok(Some(error)) | Err(error) => error,
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        },
        Err(error) => error,
    }
}
