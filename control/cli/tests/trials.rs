//! `xtproxy rules test` on a terminal and without one: who keeps, who gives back, and that the
//! terminal is as before.

mod control;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use control::{Daemon, RULES, eventually};
use insta::assert_snapshot;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;
use protocol::Request;
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

/// A terminal, and what was written to it.
struct Terminal {
    /// Taken to hang up.
    keyboard: Option<File>,
    screen: Arc<Mutex<Vec<u8>>>,
    /// Held open, so that its settings can be looked at afterwards.
    line: OwnedFd,
    before: Termios,
}

impl Terminal {
    fn new() -> Self {
        // No other test's child may inherit an end: this one could not hang up.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let keyboard = openpt(flags).unwrap();
        grantpt(&keyboard).unwrap();
        unlockpt(&keyboard).unwrap();
        let line = ioctl_tiocgptpeer(&keyboard, flags).unwrap();
        let before = tcgetattr(&line).unwrap();
        assert!(
            before
                .local_flags
                .contains(LocalFlags::ICANON | LocalFlags::ECHO)
        );
        Self {
            keyboard: Some(File::from(keyboard)),
            screen: Arc::default(),
            line,
            before,
        }
    }

    /// Runs a command as the leader of a session on this terminal.
    fn run(&self, command: &Command) -> Running {
        let mut leader = Command::new("setsid");
        leader.arg("--ctty").arg(command.get_program());
        leader.args(command.get_args()).env_remove("COLUMNS");
        let line = || Stdio::from(self.line.try_clone().unwrap());
        let child = leader.stdin(line()).stdout(line()).stderr(line());
        Running(child.spawn().unwrap())
    }

    /// Reads what is written, until nothing more can be.
    fn watch(&self) {
        let mut screen = self.keyboard.as_ref().unwrap().try_clone().unwrap();
        let seen = Arc::clone(&self.screen);
        thread::spawn(move || {
            let mut part = [0; 1024];
            while let Ok(read @ 1..) = screen.read(&mut part) {
                seen.lock().unwrap().extend_from_slice(&part[..read]);
            }
        });
    }

    fn press(&self, keys: &[u8]) {
        self.keyboard.as_ref().unwrap().write_all(keys).unwrap();
    }

    fn seen(&self) -> String {
        String::from_utf8_lossy(&self.screen.lock().unwrap()).into_owned()
    }

    fn await_seen(&self, what: &str) {
        eventually(what, || self.seen().contains(what));
    }

    fn flags(&self) -> LocalFlags {
        tcgetattr(&self.line).unwrap().local_flags
    }

    fn assert_restored(&self) {
        let now = tcgetattr(self.line.as_fd()).unwrap();
        assert_eq!(now.local_flags, self.before.local_flags);
        assert_eq!(now.input_flags, self.before.input_flags);
        assert_eq!(now.control_chars, self.before.control_chars);
    }
}

/// A child that does not outlive its test.
struct Running(Child);

impl Running {
    fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        eventually("it ends", || {
            status = self.0.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id().try_into().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn daemon() -> Daemon {
    let daemon = Daemon::start();
    daemon.put("iptables.conf.new", RULES);
    daemon
}

/// A trial on a terminal that has begun.
fn begun(daemon: &Daemon, arguments: &[&str]) -> (Terminal, Running) {
    let terminal = Terminal::new();
    terminal.watch();
    let running = terminal.run(&daemon.rules(&[&["test"], arguments].concat()));
    terminal.await_seen("s left: k keeps, q gives back");
    assert_eq!(daemon.state().generation, 5);
    assert!(
        !terminal
            .flags()
            .intersects(LocalFlags::ICANON | LocalFlags::ECHO)
    );
    (terminal, running)
}

fn ends(terminal: &Terminal, mut running: Running, code: i32, words: &str) {
    assert_eq!(running.ended().code(), Some(code), "{}", terminal.seen());
    terminal.await_seen(words);
    terminal.assert_restored();
}

/// Keys are pressed long before the time is over.
const SOON: Duration = Duration::from_secs(9);

#[test]
fn k_keeps() {
    let daemon = daemon();
    let started = Instant::now();
    let (terminal, running) = begun(&daemon, &[]);
    terminal.press(b"x\nk");
    ends(
        &terminal,
        running,
        0,
        "kept: generation 5, 2 rules in force",
    );
    assert!(started.elapsed() < SOON);
    assert_eq!(daemon.state().generation, 5);
    let ruleset = daemon.rules_dir.path().join("iptables.conf.new");
    let load = Request::RulesLoad {
        ruleset: ruleset.to_str().unwrap().into(),
        sets: None,
        try_ms: Some(15_000),
        replace: None,
    };
    assert_eq!(daemon.asked(), [load, Request::RulesKeep { ticket: 77 }]);
    // What is seen, but for how the time goes by and the bar, which is drawn now and then.
    let seen = daemon.plain(terminal.seen().as_bytes());
    assert!(seen.contains("compiling"), "{seen}");
    let passing = |line: &str| line.is_empty() || ["s left", " %"].iter().any(|w| line.contains(w));
    let seen = seen.replace("\x1b[2K", "").replace("\x1b[K", "");
    let lines = seen.split(['\r', '\n']).filter(|line| !passing(line));
    let lines: Vec<&str> = lines.collect();
    assert_snapshot!("kept", lines.join("\n"));
}

#[test]
fn q_gives_back_at_once() {
    let daemon = daemon();
    let started = Instant::now();
    let (terminal, running) = begun(&daemon, &[]);
    terminal.press(b"q");
    let words = "xtproxy: not kept: the former rules are in force again, generation 4";
    ends(&terminal, running, 1, words);
    assert!(started.elapsed() < SOON);
    assert_eq!(daemon.state().generation, 4);
}

#[test]
fn signals_give_back_at_once() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let daemon = daemon();
        let started = Instant::now();
        let (terminal, running) = begun(&daemon, &[]);
        if signal == Signal::SIGINT {
            terminal.press(b"\x03");
        } else {
            kill(running.pid(), signal).unwrap();
        }
        ends(&terminal, running, 1, "not kept");
        assert!(started.elapsed() < SOON);
        assert_eq!(daemon.state().generation, 4);
    }
}

#[test]
fn a_terminal_that_hangs_up_gives_back_at_once() {
    let daemon = daemon();
    let started = Instant::now();
    let terminal = Terminal::new();
    let mut running = terminal.run(&daemon.rules(&["test"]));
    eventually("it is on trial", || daemon.state().trial.is_some());
    // Nobody reads this terminal, so that its last descriptor is ours.
    eventually("keys are taken", || {
        !terminal.flags().contains(LocalFlags::ICANON)
    });
    let Terminal { keyboard, line, .. } = terminal;
    drop((keyboard, line));
    assert_eq!(running.ended().code(), Some(1));
    assert!(started.elapsed() < SOON);
    assert_eq!(daemon.state().generation, 4);
    assert_eq!(
        daemon.asked().last(),
        Some(&Request::RulesRevert { ticket: 77 })
    );
}

#[test]
fn the_countdown_ends_with_the_former_rules() {
    let daemon = daemon();
    let (terminal, running) = begun(&daemon, &["--timeout", "2s"]);
    ends(&terminal, running, 1, "not kept");
    let seen = terminal.seen();
    assert!(
        seen.contains("   2 s left") && seen.contains("   1 s left"),
        "{seen}"
    );
    assert_eq!(daemon.state().generation, 4);
}

#[test]
fn what_was_typed_before_is_no_answer() {
    let daemon = daemon();
    let terminal = Terminal::new();
    terminal.press(b"kkk\n");
    terminal.watch();
    let running = terminal.run(&daemon.rules(&["test", "--timeout", "1"]));
    ends(&terminal, running, 1, "not kept");
    assert_eq!(daemon.state().generation, 4);
}

#[test]
fn without_a_terminal_nobody_answers() {
    for input in [&b""[..], b"k\n"] {
        let daemon = daemon();
        let mut command = daemon.rules(&["test", "--timeout", "1"]);
        command.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert_snapshot!("unanswered", daemon.plain(&output.stderr));
        assert_eq!(daemon.state().generation, 4);
    }
}

#[test]
fn scripts_keep_by_a_flag() {
    let daemon = daemon();
    let (stdout, stderr, code) = daemon.outcome(daemon.rules(&["test", "--keep"]));
    assert_eq!((stderr.as_str(), code), ("", 0));
    assert!(
        stdout.starts_with("kept: generation 5, 2 rules in force"),
        "{stdout}"
    );
    assert!(daemon.asked().contains(&Request::RulesKeep { ticket: 77 }));
    let mut command = daemon.rules(&["test", "--keep"]);
    command.arg("--json");
    let document: serde_json::Value = serde_json::from_str(&daemon.prints(command)).unwrap();
    assert_eq!(document["kept"], true);
    assert_eq!(document["in_force"], 6);
    assert_eq!(document["loaded"]["ticket"], 77);
}

#[test]
fn documents_tell_what_was_not_kept() {
    let daemon = daemon();
    let mut command = daemon.rules(&["test", "--timeout", "1"]);
    command.arg("--json").stdin(Stdio::null());
    let (stdout, _, code) = daemon.outcome(command);
    let document: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, &document["kept"]), (1, &false.into()));
    assert_eq!(document["in_force"], 4);
}

#[test]
fn a_keep_that_comes_too_late_is_told() {
    let daemon = daemon();
    let (terminal, running) = begun(&daemon, &[]);
    {
        let mut state = daemon.state();
        (state.trial, state.generation) = (None, 4);
    }
    terminal.press(b"k");
    let words = "not kept: the daemon refuses: no such trial; its time may be over; generation 4";
    ends(&terminal, running, 1, words);
}

#[test]
fn a_daemon_that_goes_is_told_at_once() {
    let daemon = daemon();
    let started = Instant::now();
    let (terminal, running) = begun(&daemon, &[]);
    daemon.state().hangs_up = true;
    let words = "the daemon brings the former rules back by itself";
    ends(&terminal, running, 1, words);
    assert!(started.elapsed() < SOON);
}

#[test]
fn a_stopped_job_takes_no_keys() {
    let daemon = daemon();
    let (terminal, running) = begun(&daemon, &["--timeout", "3"]);
    // Neither stops nor kills it, which would leave the terminal as it is.
    terminal.press(b"\x1a\x1c");
    terminal.await_seen("   1 s left");
    ends(&terminal, running, 1, "not kept");
}

#[test]
fn kept_although_addresses_changed_meanwhile() {
    let daemon = daemon();
    let (terminal, running) = begun(&daemon, &[]);
    // Rules are compiled anew for other reasons than a load.
    daemon.state().generation = 9;
    terminal.press(b"k");
    let words = "kept: generation 9, 2 rules in force";
    ends(&terminal, running, 0, words);
}

#[test]
fn a_trial_that_another_load_ends_is_told_at_once() {
    let daemon = daemon();
    let started = Instant::now();
    let (terminal, running) = begun(&daemon, &[]);
    {
        let mut state = daemon.state();
        (state.trial, state.generation) = (None, 6);
    }
    let words = "not kept: somebody else has ended the trial; generation 6 is in force";
    ends(&terminal, running, 1, words);
    assert!(started.elapsed() < SOON);
    let loads = daemon.asked();
    assert!(
        matches!(loads[..], [Request::RulesLoad { .. }]),
        "nothing is given back that others have put in force: {loads:?}"
    );
}

#[test]
fn a_key_during_a_look_at_the_status_counts() {
    let daemon = daemon();
    let (terminal, running) = begun(&daemon, &["--timeout", "9"]);
    daemon.state().is_slow = true;
    eventually("the status is asked for", || {
        let state = daemon.state();
        state
            .asked
            .iter()
            .filter(|one| **one == Request::Status)
            .count()
            > 1
    });
    terminal.press(b"k");
    ends(&terminal, running, 0, "kept: generation 5");
}
