//! Copies both ways between two TCP connections, passing on ends and aborts.
//!
//! Invariant: a side that closes its half closes the other side's half after the last
//! byte; a side that resets makes the other side reset.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

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

/// Copies until both sides have closed or one has broken.
pub(crate) async fn copy_both(mut client: TcpStream, mut server: TcpStream) -> Ended {
    let (mut up, mut down) = (0, 0);
    let done = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        tokio::try_join!(
            copy(client_read, server_write, &mut up),
            copy(server_read, client_write, &mut down),
        )
    };
    let error = done.err();
    if error.is_some() {
        // Closing with a linger time of zero sends a reset instead of a FIN.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
    Ended { up, down, error }
}

async fn copy(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, bytes: &mut u64) -> io::Result<()> {
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
        *bytes += read as u64;
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
