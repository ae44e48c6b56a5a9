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
/// How often the daemon is asked whether the trial is still running. The countdown wakes up at
/// full seconds: a little less, so that none is missed.
const LOOK: Duration = Duration::from_millis(900);
/// So shortly before the deadline a trial that is over has come to its end by itself: the daemon's
/// clock began a little earlier.
const ABOUT: Duration = Duration::from_secs(1);

/// How a trial ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Keep,
    GiveBack,
    /// Nobody answered in time.
    None,
    /// The trial has been ended by others; the generation that is in force.
    Over(u32),
}

/// How a trial has ended.
struct End {
    in_force: u32,
    /// Why the rules are not kept; none if they are. Generations do not tell: they rise for
    /// other reasons too, such as a new address.
    not_kept: Option<String>,
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
    let mut question = Question {
        deadline,
        signals,
        is_asked: false,
        look: Instant::now() + LOOK,
    };
    let answer = if arguments.keep {
        Answer::Keep
    } else {
        let new = format!("generation {}, {}", loaded.generation, rules(loaded.rules));
        tell(&format!(
            "in force on trial: {new}; before: generation {before}"
        ));
        question.ask(&mut daemon, ticket)?
    };
    let end = end(&mut daemon, answer, ticket, &loaded, &question)?;
    if json {
        let is_kept = end.not_kept.is_none();
        let document = json!({ "kept": is_kept, "in_force": end.in_force, "loaded": loaded });
        document::print(out, &document)?;
    }
    outcome(&loaded, end, json, out)
}

fn outcome(
    loaded: &RulesLoaded,
    end: End,
    json: bool,
    out: &mut impl Write,
) -> Result<ExitCode, Failed> {
    let in_force = end.in_force;
    if let Some(why) = end.not_kept {
        out.flush()?;
        return Err(Failed::Told(format!("not kept: {why}")));
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
    /// Whether an answer about the status is still to come.
    is_asked: bool,
    /// When to ask about it again.
    look: Instant,
}

impl Question {
    /// Waits for a key, a signal, the deadline, the trial's or the daemon's end.
    fn ask(&mut self, daemon: &mut Conversation, ticket: u64) -> Result<Answer, Failed> {
        let mut keys = Keys::take();
        let line = Countdown::begin(keys.is_some(), self.left());
        loop {
            let left = self.left();
            if left.is_zero() {
                return Ok(Answer::None);
            }
            line.show(left);
            if !self.is_asked && Instant::now() >= self.look {
                // The answer is waited for together with keys: a slow daemon must not hold them up.
                (daemon.send(Request::Status)).map_err(|failed| left_alone(&failed))?;
                self.is_asked = true;
                self.look = Instant::now() + LOOK;
            }
            let found = self.wait(keys.as_ref(), daemon, left)?;
            if found.signal {
                match self.signals.wait(Duration::ZERO) {
                    Ok(Some(signal)) if ENDING.contains(&signal) => return Ok(Answer::GiveBack),
                    Ok(_) => {}
                    Err(errno) => return Err(Failed::Told(format!("signals: {errno}"))),
                }
            }
            if found.daemon {
                // The status, or it is gone, or it speaks out of turn.
                match daemon.next(Duration::from_millis(100)) {
                    Ok(None) => {}
                    Ok(Some(Reply::Status(status))) if self.is_asked => {
                        self.is_asked = false;
                        if !is_pending(&status, ticket) {
                            return Ok(self.over(&status));
                        }
                    }
                    Ok(Some(other)) => return Err(unexpected(&other)),
                    Err(failed) => return Err(left_alone(&failed)),
                }
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

    /// What it means that the daemon has no such trial any more.
    fn over(&self, status: &Status) -> Answer {
        if self.left() <= ABOUT {
            return Answer::None;
        }
        Answer::Over(status.rule_generation)
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

/// Ends the trial.
fn end(
    daemon: &mut Conversation,
    answer: Answer,
    ticket: u64,
    loaded: &RulesLoaded,
    question: &Question,
) -> Result<End, Failed> {
    let request = match answer {
        Answer::Keep => Request::RulesKeep { ticket },
        Answer::GiveBack | Answer::None => Request::RulesRevert { ticket },
        Answer::Over(in_force) => {
            let why = "somebody else has ended the trial";
            let not_kept = Some(format!("{why}; generation {in_force} is in force"));
            return Ok(End { in_force, not_kept });
        }
    };
    daemon.send(request).map_err(|failed| left_alone(&failed))?;
    let reply = match daemon.await_next(SILENCE) {
        // That was asked for during the countdown.
        Ok(Reply::Status(_)) if question.is_asked => daemon.await_next(SILENCE),
        reply => reply,
    };
    let refused = match reply {
        Ok(Reply::Done) => None,
        Ok(other) => return Err(unexpected(&other)),
        // It may have come to the deadline first.
        Err(failed @ Failed::Daemon(xtproxy_client::Error::Failed(_))) => Some(failed),
        Err(failed) => return Err(left_alone(&failed)),
    };
    if answer == Answer::Keep && refused.is_none() {
        // Whatever comes of this question: they are kept.
        let in_force = generation(daemon).unwrap_or(loaded.generation);
        let not_kept = None;
        return Ok(End { in_force, not_kept });
    }
    let in_force = settled(daemon, ticket, question.deadline)?.rule_generation;
    let not_kept = Some(match refused {
        Some(failed) if answer != Answer::None => {
            format!("{failed}; generation {in_force} is in force")
        }
        _ => format!("the former rules are in force again, generation {in_force}"),
    });
    Ok(End { in_force, not_kept })
}

/// The daemon's status as soon as the trial is over.
fn settled(daemon: &mut Conversation, ticket: u64, deadline: Instant) -> Result<Status, Failed> {
    loop {
        let status = status(daemon).map_err(|failed| left_alone(&failed))?;
        if !is_pending(&status, ticket) {
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

fn is_pending(status: &Status, ticket: u64) -> bool {
    let pending = status.rules_pending.as_ref();
    pending.is_some_and(|pending| pending.ticket == ticket)
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
