//! The list of registrations: what people see, what programs see, and the watch.

mod scripted;

use std::io::{BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use insta::assert_snapshot;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::{FlagName, Registration, RegistrationState};
use scripted::{Scripted, eventually, line};

fn xtproxy(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtproxy"));
    command.arg("--runtime-dir").arg(dir).args(arguments);
    command
}

fn prints(dir: &Path, arguments: &[&str]) -> String {
    let output = xtproxy(dir, arguments).output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!((told.as_str(), output.status.code()), ("", Some(0)));
    String::from_utf8(output.stdout).unwrap()
}

/// One whose uid has no name, so that the output is the same everywhere.
fn row(proto: &str, foreign: &str, local: &str, flags: u32) -> Registration {
    Registration {
        proto: proto.into(),
        foreign: foreign.parse().unwrap(),
        local: local.parse().unwrap(),
        peer: None,
        flags,
        uses: FlagName::list(flags),
        state: RegistrationState::Live,
        flows: 0,
        pid: 100,
        uid: 0,
        user: None,
        command: "ftp-proxy".into(),
        age_ns: 1_500_000_000,
    }
}

fn some() -> Vec<Vec<Registration>> {
    let connect = Registration {
        peer: Some("192.0.2.1:80".parse().unwrap()),
        flows: 1,
        uid: 3_999_999_999,
        pid: 101,
        ..row("tcp", "198.51.100.7:0", "10.0.0.1:40000", 0x1_0001)
    };
    let orphan = Registration {
        state: RegistrationState::Orphan,
        flows: 12,
        age_ns: 7_500_000_000_000,
        ..row("tcp", "203.0.113.5:2121", "10.0.0.1:50021", 0x4_0002)
    };
    let mark = Registration {
        command: "x\u{1b}[2J\n".into(),
        ..row("tcp", "0.0.0.0:0", "10.0.0.2:3128", 0x2_0001)
    };
    let udp = row("udp", "203.0.113.5:53", "10.0.0.1:5353", 0x8_0002);
    vec![vec![udp, orphan], vec![connect, mark]]
}

fn daemon() -> (tempfile::TempDir, Scripted) {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Scripted::start(dir.path(), some());
    (dir, daemon)
}

#[test]
fn all_of_them_from_several_lines() {
    let (dir, daemon) = daemon();
    assert_snapshot!("list", prints(dir.path(), &["registrations"]));
    assert_snapshot!(
        "list_json",
        prints(
            dir.path(),
            &["--json", "registrations", "--local", "10.0.0.1:40000"]
        )
    );
    daemon.script().lines = vec![Vec::new()];
    assert_eq!(
        prints(dir.path(), &["registrations"]),
        "no registration matches\n"
    );
}

#[test]
fn filters_select() {
    let (dir, _daemon) = daemon();
    for (filter, count) in [
        (&[][..], 4),
        (&["--proto", "udp"], 1),
        (&["--foreign", "203.0.113.0/24"], 2),
        (&["--foreign", "203.0.113.5:53"], 1),
        (&["--foreign", "0.0.0.0/0:0"], 2),
        (&["--local", "10.0.0.1"], 3),
        (&["--local", "10.0.0.0/8:3128"], 1),
        (&["--pid", "101"], 1),
        (&["--user", "root"], 3),
        (&["--user", "3999999999"], 1),
        (&["--state", "orphan"], 1),
        (&["--state", "orphan", "--proto", "udp"], 0),
    ] {
        let arguments = [&["--json", "registrations"], filter].concat();
        let list: serde_json::Value =
            serde_json::from_str(&prints(dir.path(), &arguments)).unwrap();
        let found = list["registrations"].as_array().unwrap().len();
        assert_eq!(found, count, "{filter:?}");
    }
}

#[test]
fn mistakes_and_a_missing_daemon_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut all = String::new();
    for arguments in [
        &["registrations"][..],
        &["registrations", "--watch", "--for", "1"],
        &["registrations", "--count", "3"],
        &["registrations", "--proto", "sctp"],
        &["registrations", "--foreign", "203.0.113.5:port"],
        &["registrations", "--user", "no such user"],
        &["registrations", "--state", "gone"],
    ] {
        let output = xtproxy(dir.path(), arguments).output().unwrap();
        assert!(output.stdout.is_empty());
        let told = String::from_utf8(output.stderr).unwrap();
        let told = told.replace(&dir.path().display().to_string(), "DIR");
        let code = output.status.code().unwrap();
        all += &format!(
            "$ xtproxy {}\n{told}exit code {code}\n\n",
            arguments.join(" ")
        );
    }
    assert_snapshot!("mistakes", all);
}

#[test]
fn help_teaches() {
    let dir = tempfile::tempdir().unwrap();
    assert_snapshot!("help", prints(dir.path(), &["registrations", "--help"]));
}

/// A watch that runs, and its lines without their times.
struct Watch {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Watch {
    fn start(dir: &Path, before: &[&str], after: &[&str]) -> Self {
        let arguments = [before, &["registrations", "--watch"], after].concat();
        let mut command = xtproxy(dir, &arguments);
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        line(&mut self.lines)
    }

    /// Without its time, which it must have.
    fn event(&mut self) -> String {
        let line = self.line();
        let (time, event) = line.trim_end().split_once(' ').unwrap();
        assert!(time.len() == 20 && time.ends_with('Z'), "{line}");
        event.to_owned()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watch_tells_what_happens_and_ends_on_sigint() {
    let (dir, daemon) = daemon();
    let first = row("tcp", "203.0.113.5:2121", "10.0.0.1:50021", 2);
    daemon.script().lines = vec![vec![first.clone()]];
    let mut watch = Watch::start(dir.path(), &[], &[]);
    let mut all = vec![watch.event()];
    let flowing = Registration {
        flows: 1,
        age_ns: 2_500_000_000,
        ..first
    };
    let second = row("udp", "203.0.113.5:53", "10.0.0.1:5353", 2);
    daemon.script().lines = vec![vec![flowing, second.clone()]];
    all.extend([watch.event(), watch.event()]);
    daemon.script().lines = vec![vec![second]];
    all.push(watch.event());
    assert_snapshot!("watch", all.join("\n"));

    kill(Pid::from_raw(watch.child.id() as i32), Signal::SIGINT).unwrap();
    assert_eq!(watch.child.wait().unwrap().code(), Some(0));
    assert_eq!(watch.line(), "", "nothing more");
}

#[test]
fn a_watch_is_bounded_by_count_and_by_time() {
    let (dir, daemon) = daemon();
    daemon.script().lines = vec![some().remove(1)];
    let mut counted = Watch::start(dir.path(), &["--json"], &["--count", "2"]);
    let mut event = || serde_json::from_str::<serde_json::Value>(&counted.line()).unwrap();
    for _ in 0..2 {
        assert_eq!(event()["event"], "there");
    }
    daemon.script().lines = some();
    for state in ["orphan", "live"] {
        let event = event();
        assert_eq!(event["event"], "came");
        assert_eq!(event["registration"]["state"], state);
    }
    assert_eq!(counted.line(), "", "nothing more");
    assert_eq!(counted.child.wait().unwrap().code(), Some(0));

    let start = Instant::now();
    let text = prints(dir.path(), &["registrations", "--watch", "--for", "1"]);
    assert_eq!(text.matches(" there ").count(), 4, "{text}");
    let took = start.elapsed();
    assert!(took >= Duration::from_secs(1), "ended after {took:?}");
}

#[test]
fn a_watch_outlives_a_restart_of_the_daemon() {
    let (dir, daemon) = daemon();
    let mut watch = Watch::start(dir.path(), &[], &[]);
    for _ in 0..4 {
        assert!(watch.event().starts_with("there "));
    }
    drop(daemon);
    for name in ["control.sock", "client.sock"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    let mut told = BufReader::new(watch.child.stderr.take().unwrap());
    let line = line(&mut told);
    assert!(line.ends_with("still watching\n"), "{line}");
    // Long enough for another look, which is not told again.
    std::thread::sleep(Duration::from_millis(1100));
    let mut rows = some();
    rows[0].remove(0);
    let _daemon = Scripted::start(dir.path(), rows);
    assert!(
        watch.event().starts_with("went    udp "),
        "and nothing else"
    );
    kill(Pid::from_raw(watch.child.id() as i32), Signal::SIGTERM).unwrap();
    eventually("the watch ends", || {
        watch.child.try_wait().unwrap().is_some()
    });
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}
