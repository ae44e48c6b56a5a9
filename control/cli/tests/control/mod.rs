//! A daemon that has rulesets as it is told, and trials as the true one: a deadline brings the
//! former rules back, whatever became of the client.

#![allow(dead_code, reason = "no test file needs all of it")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use protocol::{
    CONTROL_SOCKET, Envelope, ErrorKind, Failure, Reply, Request, RulesChecked, RulesLoaded,
    RulesPending, Status,
};
use tempfile::TempDir;

/// What it has and what it was asked.
#[derive(Default)]
pub struct State {
    pub generation: u32,
    /// The trial: ticket, former generation, deadline.
    pub trial: Option<(u64, u32, Instant)>,
    pub asked: Vec<Request>,
    /// What to answer, for requests that it knows nothing of.
    pub answers: Vec<Reply>,
    /// The ruleset that it began with.
    pub begun_with: Option<String>,
    /// Close the connection in place of the next answer.
    pub hangs_up: bool,
    /// Forget the trial's deadline: it does nothing by itself.
    pub is_stuck: bool,
    /// Take half a second for each answer.
    pub is_slow: bool,
}

/// A running one, with a folder of rulesets. Dropped, it ends.
pub struct Daemon {
    pub runtime_dir: TempDir,
    pub rules_dir: TempDir,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    pub fn start() -> Self {
        let runtime_dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(runtime_dir.path().join(CONTROL_SOCKET)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let state = Arc::new(Mutex::new(State {
            generation: 4,
            ..State::default()
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, end) = (Arc::clone(&state), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            let mut talks = Vec::new();
            while !end.load(Ordering::Relaxed) {
                shared.lock().unwrap().strike();
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (shared, end) = (Arc::clone(&shared), Arc::clone(&end));
                        talks.push(thread::spawn(move || converse(stream, &shared, &end)));
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
            for talk in talks {
                talk.join().unwrap();
            }
        });
        Self {
            runtime_dir,
            rules_dir: tempfile::tempdir().unwrap(),
            state,
            stop,
            thread: Some(thread),
        }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Puts a file into the folder of rulesets.
    pub fn put(&self, name: &str, text: &str) -> PathBuf {
        let path = self.rules_dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// `xtproxy rules ... --dir`.
    pub fn rules(&self, arguments: &[&str]) -> Command {
        let mut command = self.xtproxy(&["rules"]);
        command.args(arguments).arg("--dir");
        command.arg(self.rules_dir.path());
        command
    }

    pub fn xtproxy(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtproxy"));
        command.arg("--runtime-dir").arg(self.runtime_dir.path());
        command.args(arguments).env_remove("COLUMNS");
        command
    }

    /// A text without the names of folders, which are others each time.
    pub fn plain(&self, text: &[u8]) -> String {
        let text = String::from_utf8(text.to_vec()).unwrap();
        let text = text.replace(&self.rules_dir.path().display().to_string(), "DIR");
        text.replace(&self.runtime_dir.path().display().to_string(), "RUN")
    }

    /// What a command prints, says on stderr, and exits with.
    pub fn outcome(&self, mut command: Command) -> (String, String, i32) {
        let output = command.output().unwrap();
        let code = output.status.code().unwrap();
        (self.plain(&output.stdout), self.plain(&output.stderr), code)
    }

    /// What a command that does its job prints.
    pub fn prints(&self, command: Command) -> String {
        let (stdout, stderr, code) = self.outcome(command);
        assert_eq!((stderr.as_str(), code), ("", 0));
        stdout
    }

    /// The requests but `status`, in order.
    pub fn asked(&self) -> Vec<Request> {
        let state = self.state();
        let asked = state.asked.iter().filter(|one| **one != Request::Status);
        asked.cloned().collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().unwrap().join();
        assert!(thread::panicking() || ended.is_ok(), "the daemon panicked");
    }
}

fn converse(stream: UnixStream, state: &Mutex<State>, stop: &AtomicBool) {
    let mut out = stream.try_clone().unwrap();
    let often = Some(Duration::from_millis(20));
    stream.set_read_timeout(often).unwrap();
    let mut lines = BufReader::new(stream);
    let mut line = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        if state.lock().unwrap().hangs_up {
            return;
        }
        match lines.read_until(b'\n', &mut line) {
            Ok(0) => return,
            Err(_) => continue,
            Ok(_) => {}
        }
        let request = Envelope::parse(&line).unwrap();
        line.clear();
        let replies = state.lock().unwrap().answer(request);
        if state.lock().unwrap().is_slow {
            thread::sleep(Duration::from_millis(500));
        }
        for reply in replies {
            // A client that was killed reads nothing.
            if out.write_all(&protocol::line(&reply).unwrap()).is_err() {
                return;
            }
        }
    }
}

impl State {
    /// Ends the trial whose time is over.
    fn strike(&mut self) {
        if let Some((_, former, deadline)) = self.trial
            && Instant::now() >= deadline
            && !self.is_stuck
        {
            self.generation = former;
            self.trial = None;
        }
    }

    fn answer(&mut self, request: Request) -> Vec<Reply> {
        self.strike();
        self.asked.push(request.clone());
        match request {
            Request::Status => vec![self.status()],
            Request::RulesLoad {
                ruleset,
                try_ms,
                replace,
                ..
            } => self.load(&ruleset, try_ms, replace),
            Request::RulesCheck { ruleset, .. } => match count(&ruleset) {
                Err(failure) => vec![Reply::Error(failure)],
                Ok(rules) => vec![Reply::RulesChecked(RulesChecked {
                    rules,
                    warnings: vec![format!("{ruleset}:2:1: -o in FORWARD never matches yet")],
                    warnings_left: 3,
                })],
            },
            Request::RulesKeep { ticket } => vec![self.end(ticket, true)],
            Request::RulesRevert { ticket } => vec![self.end(ticket, false)],
            _ => self.answers.clone(),
        }
    }

    fn status(&self) -> Reply {
        let pending = self.trial.map(|(ticket, _, _)| RulesPending {
            ticket,
            generation: self.generation,
            ..RulesPending::default()
        });
        Reply::Status(Box::new(Status {
            rule_generation: self.generation,
            rules_pending: pending,
            ruleset: self.begun_with.clone(),
            config: "/etc/xtproxy/xtproxyd.toml".into(),
            ..Status::default()
        }))
    }

    fn load(&mut self, ruleset: &str, try_ms: Option<u64>, replace: Option<String>) -> Vec<Reply> {
        let rules = match count(ruleset) {
            Err(failure) => return vec![Reply::Error(failure)],
            Ok(rules) => rules,
        };
        let former = self.generation;
        self.generation += 1;
        if let Some(replace) = replace {
            fs::copy(ruleset, replace).unwrap();
        }
        let ticket = try_ms.map(|millis| {
            let deadline = Instant::now() + Duration::from_millis(millis);
            self.trial = Some((77, former, deadline));
            77
        });
        let progress = |done| Reply::Progress {
            stage: "compiling".into(),
            done,
            total: 100,
        };
        let loaded = RulesLoaded {
            generation: self.generation,
            rules,
            warnings: Vec::new(),
            warnings_left: 0,
            ticket,
            flows: 12,
        };
        vec![progress(50), progress(100), Reply::RulesLoaded(loaded)]
    }

    fn end(&mut self, ticket: u64, is_kept: bool) -> Reply {
        match self.trial.take() {
            Some((have, former, _)) if have == ticket => {
                if !is_kept {
                    self.generation = former;
                }
                Reply::Done
            }
            _ => refused("no such trial; its time may be over"),
        }
    }
}

fn refused(what: &str) -> Reply {
    Reply::Error(Failure::new(ErrorKind::Refused, what))
}

/// How many rules a file has; what holds `BROKEN` is refused.
fn count(ruleset: &str) -> Result<u64, Failure> {
    let text = fs::read_to_string(ruleset)
        .map_err(|error| Failure::new(ErrorKind::Refused, format!("{ruleset}: {error}")))?;
    if text.contains("BROKEN") {
        let what = format!("{ruleset}:3:1: there is no user `nobdy`");
        return Err(Failure::new(ErrorKind::Refused, what));
    }
    let rules = text.lines().filter(|line| line.starts_with("-A"));
    Ok(rules.count() as u64)
}

/// Waits until it is so, for ten seconds.
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A ruleset of two rules.
pub const RULES: &str = "*tproxy
:PREROUTING ACCEPT [0:0]
-A PREROUTING -i eth1 -p tcp -m tcp --dport 80 -j TPROXY --on-port 50080
-A PREROUTING -i eth1 -p tcp -m tcp --dport 21 -j TPROXY --on-port 50021
COMMIT
";

/// Whether a path names nothing.
pub fn is_missing(path: &Path) -> bool {
    !path.exists()
}
