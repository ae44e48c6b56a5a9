//! Raw conversations with the sockets.

#![allow(dead_code, reason = "no test file needs all of it")]

use std::io::{BufRead, BufReader, IoSlice, Read};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use protocol::{ErrorKind, Reply};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// The line that asks for the original destination.
pub const QUESTION: &[u8] = b"{\"version\":1,\"request\":\"original_destination\"}\n";

/// Connects to a socket of the daemon in `dir`.
pub fn connect(dir: &Path, socket: &str) -> UnixStream {
    let stream = UnixStream::connect(dir.join(socket)).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

/// Reads one reply line.
pub fn reply(stream: &UnixStream) -> Reply {
    let mut line = String::new();
    // Byte by byte would be honest too; the server sends one line per request.
    BufReader::new(stream).read_line(&mut line).unwrap();
    serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
}

/// Reads the reply, which must be a failure.
pub fn failure(stream: &UnixStream) -> (ErrorKind, String) {
    match reply(stream) {
        Reply::Error(failure) => (failure.kind, failure.message),
        other => panic!("{other:?}"),
    }
}

/// Nothing more comes, and the connection is closed.
pub fn assert_closed(mut stream: &UnixStream) {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest)),
        // Closed with something of ours unread.
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
    }
}

/// Sends bytes with descriptors attached to them.
pub fn send_fds(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    assert_eq!(try_send_fds(stream, bytes, fds).unwrap(), bytes.len());
}

/// The same, where the server may have closed the connection already.
pub fn try_send_fds(
    stream: &UnixStream,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> rustix::io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    assert!(attached.push(SendAncillaryMessage::ScmRights(fds)));
    sendmsg(
        stream,
        &[IoSlice::new(bytes)],
        &mut attached,
        SendFlags::NOSIGNAL,
    )
}
