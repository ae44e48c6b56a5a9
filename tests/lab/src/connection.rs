//! TCP connections that a test makes itself, byte by byte.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

use crate::namespace::Namespace;

/// How long a connection may take to be made, and a read to return.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Connects from inside `namespace`; `from` fixes the source address, and the port unless 0.
pub fn connect(
    namespace: &Namespace,
    from: Option<SocketAddrV4>,
    to: SocketAddrV4,
    timeout: Duration,
) -> io::Result<TcpStream> {
    let opened = namespace.enter(|| {
        Ok((|| {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            // Two connections may then share one source port.
            socket.set_reuse_address(true)?;
            if let Some(from) = from {
                socket.bind(&SocketAddr::V4(from).into())?;
            }
            socket.connect_timeout(&SocketAddr::V4(to).into(), timeout)?;
            let stream = TcpStream::from(socket);
            stream.set_read_timeout(Some(TIMEOUT))?;
            stream.set_write_timeout(Some(TIMEOUT))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })())
    });
    opened.unwrap_or_else(|error| Err(io::Error::other(error)))
}

/// Sends a line and reads one line back.
pub fn exchange(stream: &TcpStream, line: &str) -> io::Result<String> {
    let mut both = stream;
    both.write_all(line.as_bytes())?;
    both.write_all(b"\n")?;
    read_line(stream)
}

/// Reads up to the end of a line; a closed connection is an error.
pub fn read_line(mut stream: &TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        stream.read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        line.extend(byte);
    }
}

/// Says that nothing more will be sent, and reads all that comes.
pub fn finish(mut stream: &TcpStream) -> io::Result<Vec<u8>> {
    stream.shutdown(Shutdown::Write)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    Ok(rest)
}

/// Closes the connection by a reset.
pub fn reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

/// A checksum of a stream of bytes (FNV-1a), cheap enough for a debug build.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Digest {
    /// Bytes so far.
    pub bytes: u64,
    hash: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Digest {
            bytes: 0,
            hash: 0xcbf2_9ce4_8422_2325,
        }
    }
}

impl Digest {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:016x}", self.bytes, self.hash)
    }
}
