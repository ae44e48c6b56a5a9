//! Conversations with proxies, each on a thread of its own.
//!
//! Invariants: at most one file descriptor of a client is held, and only until its
//! request is answered; no user but root can take all places.

use std::collections::HashMap;
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use protocol::{Envelope, ErrorKind, Failure, Reply, Request};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

use crate::answers::Answers;
use crate::control::{PATIENCE, unfinished};
use crate::lines::Lines;
use crate::original;

/// How many connections there may be at once.
const CONNECTIONS_MAX: usize = 256;
/// How many of them one user may have, root excepted.
const CONNECTIONS_PER_USER_MAX: usize = 64;
/// Enough for the JSON parser's bounded recursion.
const STACK_BYTES: usize = 512 * 1024;

/// The connections of proxies.
pub(crate) struct Clients {
    answers: Arc<Answers>,
    places: Arc<Places>,
}

/// Who is connected.
#[derive(Default)]
struct Places(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    next_id: u64,
    connections: HashMap<u64, (u32, Arc<UnixStream>)>,
}

/// One place, given back when dropped.
struct Place {
    id: u64,
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
        let uid = stream.peer_cred()?.uid();
        let stream = Arc::new(stream.into_std()?);
        let Some(place) = self.places.take(uid, &stream) else {
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
            if let Err(error) = converse(&stream, &answers) {
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
        for (_, stream) in self.places.lock().connections.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Places {
    fn take(self: &Arc<Self>, uid: u32, stream: &Arc<UnixStream>) -> Option<Place> {
        let mut taken = self.lock();
        let of_user = taken
            .connections
            .values()
            .filter(|(user, _)| *user == uid)
            .count();
        let user_is_full = uid != 0 && of_user >= CONNECTIONS_PER_USER_MAX;
        if taken.connections.len() >= CONNECTIONS_MAX || user_is_full {
            return None;
        }
        let id = taken.next_id;
        taken.next_id += 1;
        taken.connections.insert(id, (uid, Arc::clone(stream)));
        Some(Place {
            id,
            places: Arc::clone(self),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().connections.remove(&self.id);
    }
}

fn converse(stream: &UnixStream, answers: &Answers) -> io::Result<()> {
    let mut lines = Lines::default();
    let mut attached = None;
    loop {
        let line = match next_line(stream, &mut lines, &mut attached)? {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(failure) => return send(stream, &Reply::Error(failure)),
        };
        match answer(answers, &line, attached.take()) {
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

/// Answers one line. The descriptor is closed on return, before the reply is sent.
fn answer(answers: &Answers, line: &[u8], attached: Option<OwnedFd>) -> Result<Reply, Failure> {
    if Envelope::parse(line)? != Request::OriginalDestination {
        return Err(Failure::new(
            ErrorKind::Forbidden,
            "this socket answers original_destination only; all else is asked on control.sock",
        ));
    }
    let fd = attached.ok_or_else(|| {
        Failure::new(
            ErrorKind::BadSocket,
            "no file descriptor came with the request",
        )
    })?;
    original::answer(&answers.sources.flows, fd.as_fd())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_but_root_can_take_all_places() {
        let places = Arc::new(Places::default());
        let stream = Arc::new(UnixStream::pair().unwrap().0);
        let take = |uid, count: usize| -> Vec<Place> {
            (0..count)
                .map_while(|_| places.take(uid, &stream))
                .collect()
        };
        let mut first = take(1000, 100);
        assert_eq!(first.len(), CONNECTIONS_PER_USER_MAX);
        let root = take(0, 1000);
        assert_eq!(root.len(), CONNECTIONS_MAX - CONNECTIONS_PER_USER_MAX);
        assert_eq!(take(1001, 1).len(), 0, "all are taken");
        first.pop();
        assert_eq!(take(1001, 2).len(), 1, "a place comes back");
    }
}
