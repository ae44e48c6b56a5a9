//! Runs the server's stand-in for a daemon: a program of its own, because neither the
//! library for proxies nor `xtproxy` may link the server.

#![allow(dead_code, reason = "no test file needs all of it")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;

/// A running stand-in. Its directory may outlive it.
pub struct StandIn {
    child: Child,
    /// Commands and answers take turns.
    talk: Mutex<(Option<ChildStdin>, BufReader<ChildStdout>)>,
}

/// One with a few flows, in a directory of its own.
pub fn server() -> (TempDir, StandIn) {
    let dir = tempfile::tempdir().unwrap();
    let stand_in = StandIn::start(dir.path(), None);
    (dir, stand_in)
}

impl StandIn {
    /// Starts one in `dir`, with a few flows of several kinds or with very many.
    pub fn start(dir: &Path, crowd: Option<u32>) -> Self {
        let mut command = Command::new(program());
        command.arg(dir).args(crowd.map(|count| count.to_string()));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let talk = (
            child.stdin.take(),
            BufReader::new(child.stdout.take().unwrap()),
        );
        let stand_in = Self {
            child,
            talk: Mutex::new(talk),
        };
        assert_eq!(stand_in.answer(), "ready");
        stand_in
    }

    /// Makes a TCP flow; each tuple is source and destination.
    pub fn put<A: std::fmt::Display>(&self, kind: &str, orig: [A; 2], reply: [A; 2]) {
        self.say(&format!(
            "put {kind} {} {} {} {}",
            orig[0], orig[1], reply[0], reply[1]
        ));
        self.answer().parse::<u64>().unwrap();
    }

    /// How many flows there are.
    pub fn live(&self) -> usize {
        self.say("live");
        self.answer().parse().unwrap()
    }

    /// Ends it in good order, as SIGTERM ends the daemon.
    pub fn stop(mut self) {
        drop(self.talk.lock().unwrap().0.take());
        assert!(self.child.wait().unwrap().success());
    }

    fn say(&self, line: &str) {
        writeln!(self.talk.lock().unwrap().0.as_ref().unwrap(), "{line}").unwrap();
    }

    fn answer(&self) -> String {
        let mut line = String::new();
        self.talk.lock().unwrap().1.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where an example of this workspace was built to.
pub fn example(name: &str) -> PathBuf {
    std::env::current_exe()
        .unwrap()
        .parent()
        .unwrap()
        .join("../examples")
        .join(name)
}

/// The stand-in. A build of the whole workspace makes it along; a build of one package
/// does not, so it is asked for here.
fn program() -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let program = example("stand_in");
    let _one_at_a_time = BUILDING.lock().unwrap();
    if !program.exists() {
        let build = [
            "build",
            "--package",
            "xtproxy-server",
            "--example",
            "stand_in",
        ];
        assert!(
            Command::new(env!("CARGO"))
                .args(build)
                .status()
                .unwrap()
                .success()
        );
    }
    program
}
