//! `xtproxy rules test`: rules on trial.
//!
//! Invariant: the daemon alone brings the former rules back at its deadline; all that this
//! does is to shorten that, or to say that the new ones are kept.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{Reply, Request, RulesLoaded, Status};
use serde_json::json;

use super::folder::Folder;
use super::keys::Keys;
use super::loading::{load, rules, tell, tell_warnings};
use crate::arguments::Test;
use crate::conversation::{Conversation, SILENCE};
use crate::document;
use crate::run::{Failed, unexpected};
use crate::signals::{ENDING, Signals};

/// How long after its deadline the daemon may take to bring the former rules back.
const GRACE: Duration = Duration::from_secs(5);

/// How a trial ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Keep,
    GiveBack,
    /// Nobody answered in time.
    None,
}

/// Tries, asks, and says what is in force afterwards.
pub(super) fn run(
    runtime_dir: &Path,
    arguments: &Test,
    json: bool,
    out: &mut impl Write,
) -> Result<ExitCode, Failed> {
    let folder = Folder::open(&arguments.dir.dir)?;
    let made = folder.made_already()?;
    // Before the rules change: a signal must not leave them on trial without a word.
    let signals = Signals::take().map_err(|errno| Failed::Told(format!("signals: {errno}")))?;
    let mut daemon = Conversation::open(runtime_dir)?;
    let before = generation(&mut daemon)?;
    let loaded = load(&mut daemon, &made, Some(arguments.timeout), None)?;
    let Some(ticket) = loaded.ticket else {
        let what = "the daemon loaded the rules, but not on trial: they are in force";
        return Err(Failed::Told(what.into()));
    };
    let deadline = Instant::now() + arguments.timeout;
    let mut warnings = loaded.warnings.clone();
    warnings.extend(folder.staleness());
    tell_warnings(&warnings, loaded.warnings_left);
    let answer = if arguments.keep {
        Answer::Keep
    } else {
        let new = format!("generation {}, {}", loaded.generation, rules(loaded.rules));
        tell(&format!(
            "in force on trial: {new}; before: generation {before}"
        ));
        Question { deadline, signals }.ask(&mut daemon)?
    };
    let in_force = end(&mut daemon, answer, ticket, loaded.generation, deadline)?;
    let is_kept = in_force == loaded.generation;
    if json {
        let document = json!({ "kept": is_kept, "in_force": in_force, "loaded": loaded });
        document::print(out, &document)?;
    }
    outcome(&loaded, in_force, json, out)
}

fn outcome(
    loaded: &RulesLoaded,
    in_force: u32,
    json: bool,
    out: &mut impl Write,
) -> Result<ExitCode, Failed> {
    if in_force != loaded.generation {
        out.flush()?;
        let what = "not kept: the former rules are in force again";
        return Err(Failed::Told(format!("{what}, generation {in_force}")));
    }
    if !json {
        writeln!(
            out,
            "kept: generation {in_force}, {} in force; 'xtproxy rules commit' makes them \
             iptables.conf",
            rules(loaded.rules)
        )?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What a terminal is asked.
struct Question {
    deadline: Instant,
    signals: Signals,
}

impl Question {
    /// Waits for a key, a signal, the deadline, or the daemon's end.
    fn ask(&self, daemon: &mut Conversation) -> Result<Answer, Failed> {
        let mut keys = Keys::take();
        let line = Countdown::begin(keys.is_some(), self.left());
        loop {
            let left = self.left();
            if left.is_zero() {
                return Ok(Answer::None);
            }
            line.show(left);
            let found = self.wait(keys.as_ref(), daemon, left)?;
            if found.signal {
                match self.signals.wait(Duration::ZERO) {
                    Ok(Some(signal)) if ENDING.contains(&signal) => return Ok(Answer::GiveBack),
                    Ok(_) => {}
                    Err(errno) => return Err(Failed::Told(format!("signals: {errno}"))),
                }
            }
            if found.daemon {
                // Nothing was asked: either it is gone, or it speaks out of turn.
                return match daemon.next(Duration::from_millis(100)) {
                    Ok(None) => continue,
                    Ok(Some(other)) => Err(unexpected(&other)),
                    Err(failed) => Err(left_alone(&failed)),
                };
            }
            if found.key {
                match keys.as_ref().and_then(Keys::read) {
                    Some(pressed) => {
                        if let Some(answer) = pressed.iter().find_map(|key| meaning(*key)) {
                            return Ok(answer);
                        }
                    }
                    // The end of the input is no answer.
                    None => keys = None,
                }
            }
        }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// What happened within a part of a second.
    fn wait(
        &self,
        keys: Option<&Keys>,
        daemon: &Conversation,
        left: Duration,
    ) -> Result<Happened, Failed> {
        let mut ready = vec![
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(daemon.as_fd(), PollFlags::POLLIN),
        ];
        ready.extend(keys.map(|keys| PollFd::new(keys.as_fd(), PollFlags::POLLIN)));
        // To the next full second, so that the countdown is true.
        let millis = left.subsec_millis().max(1);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::ZERO);
        match poll(&mut ready, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(Failed::Told(format!("waiting: {errno}"))),
        }
        let mut happened = ready.iter().map(|fd| fd.any().unwrap_or(true));
        Ok(Happened {
            signal: happened.next().unwrap_or(false),
            daemon: happened.next().unwrap_or(false),
            key: happened.next().unwrap_or(false),
        })
    }
}

struct Happened {
    signal: bool,
    daemon: bool,
    key: bool,
}

/// What a key means. Neither letter stands in what arrow or function keys of usual terminals send.
fn meaning(key: u8) -> Option<Answer> {
    match key {
        b'k' | b'K' => Some(Answer::Keep),
        b'q' | b'Q' => Some(Answer::GiveBack),
        _ => None,
    }
}

/// One line that counts down, if there is a terminal to see it. Dropped, it is gone.
struct Countdown {
    is_seen: bool,
    has_keys: bool,
}

impl Countdown {
    fn begin(has_keys: bool, left: Duration) -> Self {
        let is_seen = std::io::stderr().is_terminal();
        if !has_keys {
            let seconds = left.as_secs_f64().ceil();
            tell(&format!(
                "no terminal to answer on: the former rules return in {seconds} s"
            ));
        } else if !is_seen {
            tell("press k to keep them, q to give them back");
        }
        Self { is_seen, has_keys }
    }

    /// Errors are not told: the terminal may be gone, and the daemon must still be answered.
    fn show(&self, left: Duration) {
        if !self.is_seen {
            return;
        }
        let seconds = left.as_secs_f64().ceil();
        let keys = if self.has_keys {
            "k keeps, q gives back"
        } else {
            "Ctrl-C gives back"
        };
        let _ = write!(std::io::stderr(), "\r\x1b[K{seconds:>4} s left: {keys} ");
    }
}

impl Drop for Countdown {
    fn drop(&mut self) {
        if self.is_seen {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// Ends the trial; the generation that is in force then.
fn end(
    daemon: &mut Conversation,
    answer: Answer,
    ticket: u64,
    tried: u32,
    deadline: Instant,
) -> Result<u32, Failed> {
    let request = match answer {
        Answer::Keep => Request::RulesKeep { ticket },
        Answer::GiveBack | Answer::None => Request::RulesRevert { ticket },
    };
    daemon.send(request).map_err(|failed| left_alone(&failed))?;
    let refused = match daemon.await_next(SILENCE) {
        Ok(Reply::Done) => None,
        Ok(other) => return Err(unexpected(&other)),
        // It may have come to the deadline first.
        Err(failed @ Failed::Daemon(xtproxy_client::Error::Failed(_))) => Some(failed),
        Err(failed) => return Err(left_alone(&failed)),
    };
    let status = settled(daemon, ticket, deadline)?;
    match refused {
        Some(failed) if answer == Answer::Keep && status.rule_generation != tried => {
            Err(Failed::Told(format!(
                "not kept: {failed}; generation {} is in force",
                status.rule_generation
            )))
        }
        _ => Ok(status.rule_generation),
    }
}

/// The daemon's status as soon as the trial is over.
fn settled(daemon: &mut Conversation, ticket: u64, deadline: Instant) -> Result<Status, Failed> {
    loop {
        let status = status(daemon).map_err(|failed| left_alone(&failed))?;
        let pending = status.rules_pending.as_ref();
        if pending.is_none_or(|pending| pending.ticket != ticket) {
            return Ok(status);
        }
        if Instant::now() > deadline + GRACE {
            let what = "the rules are still on trial although their time is over";
            let cure = "'xtproxy status' tells more";
            return Err(Failed::Told(format!("{what}; {cure}")));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn status(daemon: &mut Conversation) -> Result<Status, Failed> {
    match daemon.ask(Request::Status)? {
        Reply::Status(status) => Ok(*status),
        other => Err(unexpected(&other)),
    }
}

fn generation(daemon: &mut Conversation) -> Result<u32, Failed> {
    Ok(status(daemon)?.rule_generation)
}

/// The daemon is not there to be answered.
fn left_alone(failed: &Failed) -> Failed {
    Failed::Told(format!(
        "{failed}; unless they were kept, the daemon brings the former rules back by itself, at \
         the deadline or when it starts again"
    ))
}
