//! Conversations with proxies, each on a thread of its own.
//!
//! Invariant: at most one file descriptor of a client is held, and only until its request is
//! answered.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use protocol::{Envelope, ErrorKind, Failure, Reply, Request};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use tokio::net::unix::UCred;

use crate::answers::Answers;
use crate::channel::Channel;
use crate::control::{PATIENCE, unfinished};
use crate::lines::Lines;
use crate::original;
use crate::places::Places;

/// Enough for the JSON parser's bounded recursion.
const STACK_BYTES: usize = 512 * 1024;

/// The connections of proxies.
pub(crate) struct Clients {
    answers: Arc<Answers>,
    places: Arc<Places>,
}

impl Clients {
    pub(crate) fn new(answers: Arc<Answers>) -> Self {
        Self {
            answers,
            places: Arc::default(),
        }
    }

    /// Begins a conversation, or refuses it.
    pub(crate) fn begin(&self, stream: tokio::net::UnixStream) {
        if let Err(error) = self.try_begin(stream) {
            tracing::warn!("client connection: {error}");
        }
    }

    fn try_begin(&self, stream: tokio::net::UnixStream) -> io::Result<()> {
        let peer = stream.peer_cred()?;
        let stream = Arc::new(stream.into_std()?);
        let Some(place) = self.places.take(peer.uid(), &stream) else {
            // Not waited for: the line fits the socket's buffer, or it is lost.
            let failure = Failure::new(ErrorKind::Busy, "too many client connections");
            let line = protocol::line(&Reply::Error(failure))?;
            // Nor is it told: any user can come and go, and fill the log.
            let _ = (&*stream).write_all(&line);
            return Ok(());
        };
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let answers = Arc::clone(&self.answers);
        let conversation = move || {
            let _place = place;
            if let Err(error) = converse(&stream, &peer, &answers) {
                tracing::debug!("client connection: {error}");
            }
        };
        thread::Builder::new()
            .name("client".into())
            .stack_size(STACK_BYTES)
            .spawn(conversation)?;
        Ok(())
    }

    /// Ends every conversation, without waiting for what a client may hold up.
    pub(crate) fn end(&self) {
        self.places.hang_up();
    }
}

fn converse(stream: &UnixStream, peer: &UCred, answers: &Answers) -> io::Result<()> {
    let mut lines = Lines::default();
    let mut attached = None;
    loop {
        let line = match next_line(stream, &mut lines, &mut attached)? {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(failure) => return send(stream, &Reply::Error(failure)),
        };
        // Closed before the reply is sent, whatever was asked.
        let attached = attached.take();
        let outcome = match Envelope::parse(&line) {
            Ok(Request::OriginalDestination) => original_destination(answers, attached),
            Ok(Request::Channel) => match open_channel(stream, peer, answers, &lines) {
                Ok(channel) => return channel.serve(),
                Err(failure) => Err(failure),
            },
            Ok(_) => Err(Failure::new(
                ErrorKind::Forbidden,
                "this socket answers original_destination and channel only; all else is asked on control.sock",
            )),
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(reply) => send(stream, &reply)?,
            Err(failure) => {
                let kind = failure.kind;
                send(stream, &Reply::Error(failure))?;
                if kind == ErrorKind::Malformed || kind == ErrorKind::Forbidden {
                    return Ok(());
                }
            }
        }
    }
}

fn original_destination(answers: &Answers, attached: Option<OwnedFd>) -> Result<Reply, Failure> {
    let fd = attached.ok_or_else(|| {
        Failure::new(
            ErrorKind::BadSocket,
            "no file descriptor came with the request",
        )
    })?;
    original::answer(&answers.sources.flows, fd.as_fd())
}

fn open_channel<'a>(
    stream: &'a UnixStream,
    peer: &UCred,
    answers: &'a Answers,
    lines: &Lines,
) -> Result<Channel<'a>, Failure> {
    if lines.is_begun() {
        let message = "nothing may follow a request for a channel";
        return Err(Failure::new(ErrorKind::Malformed, message));
    }
    Channel::open(stream, peer, answers)
        .map_err(|error| Failure::new(ErrorKind::Internal, format!("making a channel: {error}")))
}

/// The next line, and in `attached` the descriptor that came with it; no line when the
/// client has left.
fn next_line(
    stream: &UnixStream,
    lines: &mut Lines,
    attached: &mut Option<OwnedFd>,
) -> io::Result<Result<Option<Vec<u8>>, Failure>> {
    let mut begun: Option<Instant> = None;
    loop {
        match lines.take() {
            Ok(None) => {}
            taken => return Ok(taken),
        }
        if lines.is_begun() && begun.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
            return Ok(Err(unfinished()));
        }
        match receive(stream, lines, attached) {
            Ok(Ok(0)) => return Ok(Ok(None)),
            Ok(Ok(_)) => {}
            Ok(Err(failure)) => return Ok(Err(failure)),
            // A client may be silent for as long as it likes between two requests.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Receives some bytes and what is attached to them.
fn receive(
    stream: &UnixStream,
    lines: &mut Lines,
    attached: &mut Option<OwnedFd>,
) -> io::Result<Result<usize, Failure>> {
    let mut chunk = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut messages = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut chunk)];
    let received = recvmsg(stream, &mut parts, &mut messages, RecvFlags::CMSG_CLOEXEC)?;
    // What does not fit is closed by the kernel, which says so.
    let mut too_many = received.flags.contains(ReturnFlags::CTRUNC);
    for message in messages.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            for fd in fds {
                too_many |= attached.replace(fd).is_some();
            }
        }
    }
    if too_many {
        let message = "more than one file descriptor came with a request";
        return Ok(Err(Failure::new(ErrorKind::BadSocket, message)));
    }
    lines.put(&chunk[..received.bytes]);
    Ok(Ok(received.bytes))
}

fn send(mut stream: &UnixStream, reply: &Reply) -> io::Result<()> {
    stream.write_all(&protocol::line(reply)?)
}
