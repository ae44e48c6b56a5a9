//! Reads the lines of a control connection.
//!
//! Invariant: of a peer that never ends its line, no more than [`LINE_MOST_BYTES`] and one
//! read are kept.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// The longest line. A path of 4096 bytes and its command fit, doubled as Telnet wants it.
pub(crate) const LINE_MOST_BYTES: usize = 8400;

/// A connection's lines, one after the other.
pub(crate) struct Lines<R> {
    from: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// The lines that come from there.
    pub(crate) fn new(from: R) -> Self {
        Self {
            from,
            buffer: Vec::new(),
        }
    }

    /// The next line without its CRLF, or `None` when the connection has ended. What was
    /// read stays here when the caller stops waiting.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut looked_at = 0;
        loop {
            let fresh = self.buffer.get(looked_at..).unwrap_or_default();
            if let Some(at) = fresh.iter().position(|&byte| byte == b'\n') {
                let rest = self.buffer.split_off(looked_at + at + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(Some(line));
            }
            looked_at = self.buffer.len();
            if looked_at > LINE_MOST_BYTES {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("a line of more than {LINE_MOST_BYTES} bytes"),
                ));
            }
            self.buffer.reserve(512);
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}
