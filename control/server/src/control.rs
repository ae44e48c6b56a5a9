//! A conversation with root.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::{Envelope, ErrorKind, Failure, FlowFilter, Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::answers::Answers;
use crate::flows::{self, FlowPages};
use crate::lines::Lines;
use crate::registrations;

/// How long a line that was begun, or a reply that was sent, may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// How many flows go into one line: some 200 KB.
const FLOWS_PER_LINE: usize = 500;
/// How many registrations go into one line: some 200 KB.
const REGISTRATIONS_PER_LINE: usize = 500;

/// Answers one client until it leaves, is cut off, or says what makes no sense.
pub(crate) async fn converse(mut stream: UnixStream, answers: Arc<Answers>, busy: bool) {
    let uid = stream.peer_cred().map(|cred| cred.uid());
    let refusal = match uid {
        Ok(0) if busy => Some(Failure::new(
            ErrorKind::Busy,
            "too many control connections",
        )),
        Ok(0) => None,
        Ok(uid) => Some(Failure::new(
            ErrorKind::Forbidden,
            format!("only root may ask; you are user {uid}"),
        )),
        Err(error) => Some(Failure::new(
            ErrorKind::Internal,
            format!("peer credentials: {error}"),
        )),
    };
    let ended = match refusal {
        Some(failure) => send(&mut stream, &Reply::Error(failure)).await,
        None => serve(&mut stream, &answers).await,
    };
    if let Err(error) = ended {
        tracing::debug!("control connection: {error}");
    }
}

async fn serve(stream: &mut UnixStream, answers: &Answers) -> io::Result<()> {
    let mut lines = Lines::default();
    loop {
        let line = match next_line(stream, &mut lines).await? {
            Ok(Some(line)) => line,
            Ok(None) => return Ok(()),
            Err(failure) => return send(stream, &Reply::Error(failure)).await,
        };
        match Envelope::parse(&line) {
            Ok(request) => answer(stream, answers, request).await?,
            Err(failure) => {
                let is_garbage = failure.kind == ErrorKind::Malformed;
                send(stream, &Reply::Error(failure)).await?;
                if is_garbage {
                    return Ok(());
                }
            }
        }
    }
}

/// The next line; none when the client has left. Waits for its beginning as long as it
/// takes, and not for its end.
async fn next_line(
    stream: &mut UnixStream,
    lines: &mut Lines,
) -> io::Result<Result<Option<Vec<u8>>, Failure>> {
    let mut deadline = None;
    let mut chunk = [0; 4096];
    loop {
        match lines.take() {
            Ok(None) => {}
            taken => return Ok(taken),
        }
        if lines.is_begun() && deadline.is_none() {
            deadline = Some(Instant::now() + PATIENCE);
        }
        let reading = stream.read(&mut chunk);
        let read = match deadline {
            Some(deadline) => match timeout_at(deadline, reading).await {
                Ok(read) => read?,
                Err(_) => return Ok(Err(unfinished())),
            },
            None => reading.await?,
        };
        if read == 0 {
            return Ok(Ok(None));
        }
        lines.put(&chunk[..read]);
    }
}

pub(crate) fn unfinished() -> Failure {
    let seconds = PATIENCE.as_secs();
    Failure::new(
        ErrorKind::Timeout,
        format!("the request's line did not end within {seconds} s"),
    )
}

async fn answer(stream: &mut UnixStream, answers: &Answers, request: Request) -> io::Result<()> {
    let refused = |message: &str| Reply::Error(Failure::new(ErrorKind::Refused, message));
    let reply = match request {
        Request::Status => Reply::Status(Box::new(answers.status())),
        Request::Ports => Reply::Ports {
            ports: answers.sources.machine.ports(),
        },
        Request::Stats { examples } => Reply::Stats(answers.stats(examples)),
        Request::RulesShow => Reply::Rules(answers.sources.machine.rules()),
        Request::FlowsList { filter } => return list(stream, answers, &filter).await,
        Request::FlowsCount { filter } => Reply::Count {
            count: flows::count(answers, &filter).await,
        },
        Request::FlowsKill { filter } if filter.is_empty() => {
            refused("a filter or an id is needed; flows_flush removes every flow")
        }
        Request::FlowsKill { filter } => Reply::Count {
            count: flows::kill(answers, &filter).await,
        },
        Request::FlowsFlush => Reply::Count {
            count: flows::kill(answers, &FlowFilter::default()).await,
        },
        Request::Registrations => return list_registrations(stream, answers).await,
        Request::Channel => refused("ask this on client.sock: a channel is a proxy's"),
        Request::OriginalDestination => {
            refused("ask this on client.sock, with the socket's file descriptor attached")
        }
    };
    send(stream, &reply).await
}

async fn list(stream: &mut UnixStream, answers: &Answers, filter: &FlowFilter) -> io::Result<()> {
    let mut pages = FlowPages::new(answers, filter);
    loop {
        let (flows, more) = pages.next(FLOWS_PER_LINE).await;
        send(stream, &Reply::Flows { flows, more }).await?;
        if !more {
            return Ok(());
        }
    }
}

async fn list_registrations(stream: &mut UnixStream, answers: &Answers) -> io::Result<()> {
    let mut rest = registrations::all(answers).into_iter();
    loop {
        let registrations = rest.by_ref().take(REGISTRATIONS_PER_LINE).collect();
        let more = rest.len() > 0;
        let page = Reply::Registrations {
            registrations,
            more,
        };
        send(stream, &page).await?;
        if !more {
            return Ok(());
        }
    }
}

/// Sends one line. A client that does not read is cut off.
async fn send(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let line = protocol::line(reply)?;
    timeout(PATIENCE, stream.write_all(&line))
        .await
        .unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "a client does not read",
            ))
        })
}
