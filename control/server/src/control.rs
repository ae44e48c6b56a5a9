//! A conversation with root.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use protocol::{Envelope, ErrorKind, Failure, FlowFilter, REPLY_MAX_BYTES, Reply, Request};
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};

use crate::answers::Answers;
use crate::flows::{self, FlowPages};
use crate::following;
use crate::lines::Lines;
use crate::machine::LoadOrder;
use crate::pages;
use crate::registrations;
use crate::rulesets::{self, path};

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
            Ok(Request::Log { tail, follow: true }) => {
                return following::follow(stream, &answers.journal, tail).await;
            }
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
        Request::RulesShow => return pages::show(stream, answers).await,
        Request::RulesLoad {
            ruleset,
            sets,
            try_ms,
            replace,
        } => match order(ruleset, sets, try_ms, replace) {
            Ok(order) => return rulesets::load(stream, answers, order).await,
            Err(failure) => Reply::Error(failure),
        },
        Request::RulesCheck { ruleset, sets } => match order(ruleset, sets, None, None) {
            Ok(order) => return rulesets::check(stream, answers, order).await,
            Err(failure) => Reply::Error(failure),
        },
        Request::RulesKeep { ticket } => {
            rulesets::ask(answers, move |machine| {
                machine.keep(ticket).map(|()| Reply::Done)
            })
            .await
        }
        Request::RulesRevert { ticket } => {
            rulesets::ask(answers, move |machine| {
                machine.revert(ticket).map(|()| Reply::Done)
            })
            .await
        }
        Request::RulesExplain { packet } => {
            rulesets::ask(answers, move |machine| {
                machine.explain(&packet).map(Reply::Explained)
            })
            .await
        }
        Request::Zones => rulesets::ask(answers, |machine| Ok(Reply::Zones(machine.zones()))).await,
        Request::Log { tail, follow: _ } => {
            return following::tell(stream, &answers.journal, tail).await;
        }
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

/// What a request to load or check asks for.
fn order(
    ruleset: String,
    sets: Option<String>,
    try_ms: Option<u64>,
    replace: Option<String>,
) -> Result<LoadOrder, Failure> {
    let refused = |message: &str| Failure::new(ErrorKind::Refused, message);
    if try_ms == Some(0) {
        return Err(refused("try_ms: a trial of no time is over at once"));
    }
    if try_ms.is_some() && replace.is_some() {
        return Err(refused("replace: a trial replaces no file"));
    }
    Ok(LoadOrder {
        ruleset: path("ruleset", ruleset)?,
        sets: sets.map(|sets| path("sets", sets)).transpose()?,
        try_for: try_ms.map(Duration::from_millis),
        replace: replace.map(|file| path("replace", file)).transpose()?,
    })
}

/// Sends one line, or in its place that it would be too long.
pub(crate) async fn send(stream: &mut (impl AsyncWrite + Unpin), reply: &Reply) -> io::Result<()> {
    let mut line = protocol::line(reply)?;
    if line.len() > REPLY_MAX_BYTES {
        let message = format!("the answer has {} bytes: too long for a line", line.len());
        line = protocol::line(&Reply::Error(Failure::new(ErrorKind::Internal, message)))?;
    }
    send_line(stream, &line).await
}

/// Sends a line. A client that does not read is cut off.
pub(crate) async fn send_line(
    stream: &mut (impl AsyncWrite + Unpin),
    line: &[u8],
) -> io::Result<()> {
    timeout(PATIENCE, stream.write_all(line))
        .await
        .unwrap_or_else(|_| {
            Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "a client does not read",
            ))
        })
}
