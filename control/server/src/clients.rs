//! Conversations with proxies, each on a thread of its own.
//!
//! Invariant: at most one file descriptor of a client is held, and only until its request is
//! answered.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use protocol::{Envelope, ErrorKind, Failure, Reply, Request};
use registry::Grant;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use tokio::net::unix::UCred;

use crate::answers::Answers;
use crate::channel::Channel;
use crate::control::{PATIENCE, unfinished};
use crate::credentials;
use crate::lines::Lines;
use crate::original;
use crate::places::{Places, Whose};

/// How long a connection may last that has asked nothing yet. Who has asked once may be silent
/// for as long as he likes.
const FIRST_WORDS: Duration = Duration::from_secs(30);
/// How often connections that cannot begin are told of: any user can make very many.
const TROUBLE_EVERY: Duration = Duration::from_secs(60);
/// Enough for the JSON parser's bounded recursion.
const STACK_BYTES: usize = 512 * 1024;

/// The connections of proxies.
pub(crate) struct Clients {
    answers: Arc<Answers>,
    grants: Vec<Grant>,
    places: Arc<Places>,
    trouble: Mutex<Trouble>,
}

/// Connections that could not begin.
#[derive(Default)]
struct Trouble {
    told: Option<Instant>,
    untold: u64,
}

impl Trouble {
    /// Counts one. How many there were since the last time that they were told of, if it is
    /// time to do so.
    fn count(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        let is_due = self
            .told
            .is_none_or(|told| now.duration_since(told) >= TROUBLE_EVERY);
        is_due.then(|| {
            self.told = Some(now);
            std::mem::take(&mut self.untold)
        })
    }
}

impl Clients {
    pub(crate) fn new(answers: Arc<Answers>) -> Self {
        let grants = answers.registry().grants().to_vec();
        Self {
            answers,
            grants,
            places: Arc::default(),
            trouble: Mutex::default(),
        }
    }

    /// Begins a conversation, or refuses it.
    pub(crate) fn begin(&self, stream: tokio::net::UnixStream) {
        let Err(error) = self.try_begin(stream) else {
            return;
        };
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = trouble.count(Instant::now()) {
            tracing::warn!(
                "{times} client connections could not begin, the last because of: {error}"
            );
        }
    }

    /// Whose connection this is, as far as the choice of a place goes.
    fn whose(&self, peer: &UCred) -> Whose {
        let uid = peer.uid();
        let is_named = |gids: &[u32]| self.grants.iter().any(|grant| grant.is_for(uid, gids));
        // Supplementary groups cost a look at the process.
        let is_granted =
            is_named(&[peer.gid()]) || uid != 0 && is_named(&credentials::all_groups(peer));
        Whose { uid, is_granted }
    }

    fn try_begin(&self, stream: tokio::net::UnixStream) -> io::Result<()> {
        let peer = stream.peer_cred()?;
        let stream = Arc::new(stream.into_std()?);
        let Some(place) = self.places.take(self.whose(&peer), &stream) else {
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
    let mut until = Some(Instant::now() + FIRST_WORDS);
    loop {
        let line = match next_line(stream, &mut lines, &mut attached, until.take())? {
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
    original::answer(&answers.sources, fd.as_fd())
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
/// client has left. It must be there before `until`.
fn next_line(
    stream: &UnixStream,
    lines: &mut Lines,
    attached: &mut Option<OwnedFd>,
    until: Option<Instant>,
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
        if until.is_some_and(|until| Instant::now() >= until) {
            let message = "nothing was asked in time; connect when there is something to ask";
            return Ok(Err(Failure::new(ErrorKind::Timeout, message)));
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
    fn who_asks_nothing_at_first_is_cut_off_and_may_be_silent_later() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(Duration::from_millis(10)))
            .unwrap();
        let (mut lines, mut attached) = (Lines::default(), None);
        let mut next = |until| next_line(&ours, &mut lines, &mut attached, until).unwrap();
        let begun = Instant::now();
        let soon = || Some(Instant::now() + Duration::from_millis(100));
        assert_eq!(next(soon()).unwrap_err().kind, ErrorKind::Timeout);
        assert!(begun.elapsed() >= Duration::from_millis(100));
        // Bytes that are no line are no question either.
        let drip = thread::spawn(move || {
            for _ in 0..50 {
                (&theirs).write_all(b"x").unwrap();
                thread::sleep(Duration::from_millis(5));
            }
            thread::sleep(Duration::from_millis(300));
            (&theirs).write_all(b"\n").unwrap();
            theirs
        });
        assert_eq!(next(soon()).unwrap_err().kind, ErrorKind::Timeout);
        let line = next(None).unwrap().unwrap();
        assert_eq!(line, [&[b'x'; 50][..], b"\n"].concat());
        drop(drip.join().unwrap());
        assert_eq!(next(None).unwrap(), None);
    }

    #[test]
    fn trouble_is_told_of_once_a_minute() {
        let mut trouble = Trouble::default();
        let start = Instant::now();
        assert_eq!(trouble.count(start), Some(1));
        for _ in 0..1000 {
            assert_eq!(trouble.count(start + Duration::from_secs(59)), None);
        }
        assert_eq!(trouble.count(start + Duration::from_secs(60)), Some(1001));
        assert_eq!(trouble.count(start + Duration::from_secs(61)), None);
    }
}
