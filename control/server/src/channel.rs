//! A channel: shared memory by which a proxy registers its sockets.
//!
//! Invariants: a request is about a socket that the client itself has open, whatever it says,
//! and the kernel's facts of it; a copy of that socket is held until the request is answered, so
//! that it is not closed before the registry watches it; the registry is held for one request,
//! and never while a descriptor of the client is copied, read or closed.
//! Never here: what an operation does.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use registry::{Client, Socket};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use shm::{Access, Operation, Reply, Request, ServerEnd};
use sockets::{Facts, FetchError};
use tokio::net::unix::UCred;

use crate::answers::Answers;
use crate::credentials::{self, Standing};
use crate::original;

/// A client that never lets us rest is looked after every so many rounds.
const ROUNDS_BETWEEN_LOOKS: u32 = 64;

/// A client's channel. Dropping it cuts the client off.
pub(crate) struct Channel<'a> {
    end: ServerEnd,
    stream: &'a UnixStream,
    asking: Asking<'a>,
}

/// Who asks whom.
struct Asking<'a> {
    /// The process that has connected, however many others have its connection by now.
    pidfd: OwnedFd,
    client: Client,
    standing: Standing,
    answers: &'a Answers,
}

impl<'a> Channel<'a> {
    /// Makes one and hands it over.
    pub(crate) fn open(
        stream: &'a UnixStream,
        peer: &UCred,
        answers: &'a Answers,
    ) -> io::Result<Self> {
        let pidfd = sockets::peer_pidfd(stream)?;
        let (client, standing) = credentials::read(peer, &pidfd)?;
        let (end, handover) = ServerEnd::create()?;
        handover.send(stream)?;
        Ok(Self {
            end,
            stream,
            asking: Asking {
                pidfd,
                client,
                standing,
                answers,
            },
        })
    }

    /// Serves until the client's process ends, or its connection, or it breaks the rules.
    pub(crate) fn serve(mut self) -> io::Result<()> {
        let Self {
            end,
            stream,
            asking,
        } = &mut self;
        let now = Timespec::default();
        let mut rounds = 0_u32;
        loop {
            let served = end.serve(|request| asking.answer(request));
            served.map_err(|violation| io::Error::new(io::ErrorKind::InvalidData, violation))?;
            rounds = rounds.wrapping_add(1);
            let limit = if end.rest() {
                None
            } else if rounds.is_multiple_of(ROUNDS_BETWEEN_LOOKS) {
                Some(&now)
            } else {
                continue;
            };
            if !is_alive(end.as_fd(), stream, &asking.pidfd, limit)? {
                return Ok(());
            }
        }
    }
}

/// Waits for the bell. Whether the client is still there: what happens on its connection is a
/// hang-up, or against the rules.
fn is_alive(
    bell: BorrowedFd<'_>,
    stream: &UnixStream,
    pidfd: &OwnedFd,
    limit: Option<&Timespec>,
) -> io::Result<bool> {
    let mut fds = [
        PollFd::from_borrowed_fd(bell, PollFlags::IN),
        PollFd::new(stream, PollFlags::IN | PollFlags::RDHUP),
        PollFd::new(pidfd, PollFlags::IN),
    ];
    match poll(&mut fds, limit) {
        Ok(_) => Ok(fds[1].revents().is_empty() && fds[2].revents().is_empty()),
        Err(Errno::INTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

impl Asking<'_> {
    fn answer(&self, request: &Request) -> Reply {
        self.try_answer(request)
            .unwrap_or_else(|error| Reply::refused(error.errno()))
    }

    fn try_answer(&self, request: &Request) -> Result<Reply, FetchError> {
        let copy = sockets::copy(self.pidfd.as_fd(), request.fd)?;
        // Root's rights cannot grow.
        if self.client.uid != 0 && !self.standing.is_as_it_was() {
            return Err(FetchError::Denied);
        }
        let facts = sockets::facts(copy.as_fd())?;
        let now_ns = self.answers.now_ns();
        let mut reply = self
            .answers
            .registry()
            .answer(&self.client, &told(facts), request, now_ns);
        if is_unknown_original(request, &reply)
            && let Some(captured) = self.captured(&facts)?
        {
            reply = captured;
        }
        // Before the client learns of the answer: it may close its own next, and count on being
        // the last. The registry is free again, because this can block.
        drop(copy);
        Ok(reply)
    }

    /// Where the client of an accepted socket meant to go, if it was captured on this box.
    fn captured(&self, facts: &Facts) -> Result<Option<Reply>, FetchError> {
        let machine = &*self.answers.sources.machine;
        let found = original::captured(machine, facts).map_err(FetchError::System)?;
        Ok(found.map(|destination| Reply {
            foreign: Some(destination.into()),
            peer: facts.peer.map(Into::into),
            ..Reply::default()
        }))
    }
}

/// Whether the registry was asked where a connection was to go, and knows nothing of it.
fn is_unknown_original(request: &Request, reply: &Reply) -> bool {
    (request.operation, request.access) == (Operation::OriginalDestination, Access::Get)
        && reply.errno == Errno::NOENT.raw_os_error()
}

/// The kernel's facts in the registry's words.
const fn told(facts: Facts) -> Socket {
    let Facts {
        cookie,
        proto,
        local,
        peer,
        reuse,
        uid,
    } = facts;
    Socket {
        cookie,
        proto,
        local,
        peer,
        reuse,
        uid,
    }
}
