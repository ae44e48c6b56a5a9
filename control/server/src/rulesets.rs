//! Requests that the machine may take its time for: each on a thread of its own.
//!
//! Invariants: one ruleset is loaded at a time; what a client does while it waits, hanging up
//! included, changes nothing about what is loaded.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use protocol::{ErrorKind, Failure, Reply};
use tokio::io::AsyncWrite;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, spawn_blocking};

use crate::answers::Answers;
use crate::control::send;
use crate::machine::{LoadOrder, Machine};

/// How often the progress of one stage is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(100);
/// How many steps wait for a client that reads slowly; further ones are not told.
const PROGRESS_WAITING: usize = 8;

/// Who may load, and who may check: one at a time.
pub(crate) struct Turns {
    load: Arc<Semaphore>,
    check: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        let one = || Arc::new(Semaphore::new(1));
        Self {
            load: one(),
            check: one(),
        }
    }
}

/// A file as a request names it.
pub(crate) fn path(what: &str, text: String) -> Result<PathBuf, Failure> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        return Ok(path);
    }
    let message = format!("{what}: {path:?} is no absolute path");
    Err(Failure::new(ErrorKind::Refused, message))
}

/// Loads a ruleset.
pub(crate) async fn load(
    stream: &mut (impl AsyncWrite + Unpin),
    answers: &Answers,
    order: LoadOrder,
) -> io::Result<()> {
    let work = move |machine: &dyn Machine, progress: &mut dyn FnMut(&str, u64, u64)| {
        machine.load(&order, progress).map(Reply::RulesLoaded)
    };
    let busy = "another ruleset is being loaded: try again when that is done";
    in_turn(stream, answers, &answers.turns.load, busy, work).await
}

/// Checks a ruleset.
pub(crate) async fn check(
    stream: &mut (impl AsyncWrite + Unpin),
    answers: &Answers,
    order: LoadOrder,
) -> io::Result<()> {
    let work = move |machine: &dyn Machine, progress: &mut dyn FnMut(&str, u64, u64)| {
        machine.check(&order, progress).map(Reply::RulesChecked)
    };
    let busy = "another ruleset is being checked: try again when that is done";
    in_turn(stream, answers, &answers.turns.check, busy, work).await
}

async fn in_turn(
    stream: &mut (impl AsyncWrite + Unpin),
    answers: &Answers,
    turns: &Arc<Semaphore>,
    busy: &str,
    work: impl FnOnce(&dyn Machine, &mut dyn FnMut(&str, u64, u64)) -> Result<Reply, Failure>
    + Send
    + 'static,
) -> io::Result<()> {
    let Ok(turn) = Arc::clone(turns).try_acquire_owned() else {
        let failure = Failure::new(ErrorKind::Refused, busy);
        return send(stream, &Reply::Error(failure)).await;
    };
    let machine = Arc::clone(&answers.sources.machine);
    let (told, mut steps) = mpsc::channel(PROGRESS_WAITING);
    let working = spawn_blocking(move || {
        // Given back when the work is done, however many have hung up by then.
        let _turn = turn;
        let mut progress = Progress::new(told);
        work(&*machine, &mut |stage, done, total| {
            progress.tell(stage, done, total);
        })
    });
    while let Some(step) = steps.recv().await {
        send(stream, &step).await?;
    }
    send(stream, &outcome(working.await)).await
}

/// Asks the machine for a reply that may take its time.
pub(crate) async fn ask(
    answers: &Answers,
    work: impl FnOnce(&dyn Machine) -> Result<Reply, Failure> + Send + 'static,
) -> Reply {
    let machine = Arc::clone(&answers.sources.machine);
    outcome(spawn_blocking(move || work(&*machine)).await)
}

fn outcome(done: Result<Result<Reply, Failure>, JoinError>) -> Reply {
    match done {
        Ok(Ok(reply)) => reply,
        Ok(Err(failure)) => Reply::Error(failure),
        Err(error) => {
            tracing::error!("a request about rules failed: {error}");
            let message = "the daemon failed at this; its log says more";
            Reply::Error(Failure::new(ErrorKind::Internal, message))
        }
    }
}

/// Tells a client how far the work is. Never waits for it.
struct Progress {
    told: mpsc::Sender<Reply>,
    last: Option<(String, Instant)>,
}

impl Progress {
    const fn new(told: mpsc::Sender<Reply>) -> Self {
        Self { told, last: None }
    }

    fn tell(&mut self, stage: &str, done: u64, total: u64) {
        let is_new = match &self.last {
            None => true,
            Some((last, at)) => last != stage || at.elapsed() >= PROGRESS_EVERY,
        };
        if !is_new && (total == 0 || done != total) {
            return;
        }
        self.last = Some((stage.to_owned(), Instant::now()));
        let stage = stage.to_owned();
        // A client that is slow, or has gone, misses it.
        let _ = self.told.try_send(Reply::Progress { stage, done, total });
    }
}
