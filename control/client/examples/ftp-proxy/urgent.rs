//! Urgent bytes on a control connection: clients send them before ABOR, and servers look
//! for nothing else while they send data.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{RecvFlags, SendFlags, recv, send, sockopt};
use tokio::io::{AsyncRead, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::command::{DATA_MARK, URGENT};

/// The reading half of a connection that may carry urgent bytes.
///
/// The kernel ends a read where urgent bytes begin. Tokio takes such a short read for the
/// last one and would wait for more to arrive; this reads until there is nothing.
pub(crate) struct Reader(OwnedReadHalf);

impl Reader {
    /// From now on urgent bytes stay where they are among the others.
    pub(crate) fn new(half: OwnedReadHalf) -> io::Result<Self> {
        let stream: &TcpStream = half.as_ref();
        sockopt::set_socket_oobinline(stream, true)?;
        Ok(Self(half))
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream: &TcpStream = self.0.as_ref();
        loop {
            ready!(stream.poll_read_ready(cx))?;
            let space = buffer.initialize_unfilled();
            let done = stream.try_io(Interest::READABLE, || {
                Ok(recv(stream, space, RecvFlags::empty())?)
            });
            match done {
                Ok((_, read)) => {
                    buffer.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// Sends Telnet's interrupt, as urgent as a client would. The command has to follow.
pub(crate) async fn interrupt(to: &mut OwnedWriteHalf) -> io::Result<()> {
    let stream: &TcpStream = to.as_ref();
    let sending = stream.async_io(Interest::WRITABLE, || {
        Ok(send(stream, &URGENT, SendFlags::OOB | SendFlags::NOSIGNAL)?)
    });
    sending.await?;
    to.write_all(&[DATA_MARK]).await
}
