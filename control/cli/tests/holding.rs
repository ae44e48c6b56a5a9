//! `listen`, `assign` and `connect`: what they register, for how long, and how they end.

mod scripted;

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use insta::assert_snapshot;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustix::io::Errno;
use scripted::{Scripted, Standing, eventually, line};

const FOREIGN: &str = "203.0.113.5:2121";
const CONNECT: u32 = 1;
const LISTEN: u32 = 2;
const ONCE: u32 = 0x1_0000;

fn xtproxy(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtproxy"));
    command.arg("--runtime-dir").arg(dir).args(arguments);
    command
}

/// What it said on its output and on its error output, and its exit code.
fn outcome(output: Output) -> (String, String, Option<i32>) {
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let code = output.status.code();
    (text(output.stdout), text(output.stderr), code)
}

fn daemon() -> (tempfile::TempDir, Scripted) {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Scripted::start(dir.path(), Vec::new());
    (dir, daemon)
}

/// A free port of this box, bound by nobody.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// One that holds a registration. Dropped, it is killed.
struct Holder {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    told: BufReader<std::process::ChildStderr>,
}

impl Holder {
    fn start(dir: &Path, arguments: &[&str]) -> Self {
        // Whoever runs this test may ignore signals, as nohup does and shells for what they put in
        // the background.
        let plain = xtproxy(dir, arguments);
        let mut command = Command::new("env");
        command.arg("--default-signal").arg(plain.get_program());
        command.args(plain.get_args());
        let command = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        Self {
            out: BufReader::new(child.stdout.take().unwrap()),
            told: BufReader::new(child.stderr.take().unwrap()),
            child,
        }
    }

    fn line(&mut self) -> String {
        line(&mut self.out)
    }

    fn told(&mut self) -> String {
        line(&mut self.told)
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    fn code(&mut self) -> Option<i32> {
        let mut status = None;
        eventually("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn standing(local: SocketAddr, foreign: &str, flags: u32) -> Standing {
    Standing {
        local,
        foreign: foreign.parse().unwrap(),
        peer: None,
        flags,
    }
}

#[test]
fn listen_stands_until_a_signal_whether_a_server_is_there_or_not() {
    let (dir, daemon) = daemon();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        for server_first in [true, false] {
            let at = free();
            let before = server_first.then(|| TcpListener::bind(at).unwrap());
            let text = at.to_string();
            let arguments = ["listen", "--foreign", FOREIGN, "--local", &text];
            let mut holder = Holder::start(dir.path(), &arguments);
            let line = format!("listening tcp {FOREIGN} for {at} [listen]\n");
            assert_eq!(holder.line(), line);
            assert_eq!(daemon.await_standing(), standing(at, FOREIGN, LISTEN));
            // The standard library's listener sets SO_REUSEADDR.
            let server = before.unwrap_or_else(|| TcpListener::bind(at).unwrap());
            let _client = std::net::TcpStream::connect(at).unwrap();
            server.accept().unwrap();
            holder.send(signal);
            assert_eq!(holder.code(), Some(0), "{}", holder.told());
            assert!(daemon.script().standing.is_empty());
        }
    }
    assert_eq!(daemon.script().unassigned, 6);
}

#[test]
fn listen_runs_a_command_and_ends_as_it_does() {
    let (dir, daemon) = daemon();
    let at = free().to_string();
    let common = ["listen", "--foreign", FOREIGN, "--local", &at, "--"];
    for (command, out, code) in [
        (&["sh", "-c", "echo up; exit 7"][..], "up\n", 7),
        (&["sh", "-c", "kill -9 $$"], "", 128 + 9),
        (&["true"], "", 0),
    ] {
        let arguments = [&common[..], command].concat();
        let output = xtproxy(dir.path(), &arguments).output().unwrap();
        let told = format!("listening tcp {FOREIGN} for {at} [listen]\n");
        assert_eq!(outcome(output), (out.into(), told, Some(code)));
    }
    let arguments = [&common[..], &["/no/such/program"]].concat();
    let output = xtproxy(dir.path(), &arguments).output().unwrap();
    let (_, told, code) = outcome(output);
    assert!(
        told.contains("xtproxy: /no/such/program: No such file"),
        "{told}"
    );
    assert_eq!(code, Some(1));
    assert_eq!(daemon.script().unassigned, 4);
    assert!(daemon.script().standing.is_empty());
}

#[test]
fn a_command_gets_the_signal_and_the_registration_stands_until_it_is_done() {
    let (dir, daemon) = daemon();
    let at = free().to_string();
    let script =
        "trap 'echo ending; read x <&3; exit 3' TERM; echo up; while :; do sleep 0.05; done";
    let (reader, mut writer) = std::io::pipe().unwrap();
    let shell = format!("exec 3<&0; {script}");
    let arguments = [
        "listen",
        "--foreign",
        FOREIGN,
        "--local",
        &at,
        "--",
        "sh",
        "-c",
        &shell,
    ];
    let mut command = xtproxy(dir.path(), &arguments);
    let command = command.stdin(reader).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut holder = Holder {
        out: BufReader::new(child.stdout.take().unwrap()),
        told: BufReader::new(child.stderr.take().unwrap()),
        child,
    };
    assert_eq!(holder.line(), "up\n");
    holder.send(Signal::SIGTERM);
    assert_eq!(holder.line(), "ending\n");
    assert_eq!(daemon.script().standing.len(), 1, "as long as it runs");
    writeln!(writer, "go").unwrap();
    assert_eq!(holder.code(), Some(3));
    assert!(daemon.script().standing.is_empty());
}

/// A shell resets what it inherits; most programs keep blocked what is blocked.
#[test]
fn a_command_without_manners_is_ended_by_the_signal() {
    let (dir, _daemon) = daemon();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let at = free().to_string();
        let arguments = [
            "listen",
            "--foreign",
            FOREIGN,
            "--local",
            &at,
            "--",
            "sleep",
            "60",
        ];
        let mut holder = Holder::start(dir.path(), &arguments);
        assert!(holder.told().starts_with("listening"));
        holder.send(signal);
        assert_eq!(holder.code(), Some(128 + signal as i32));
    }
}

#[test]
fn what_a_restarted_daemon_has_lost_is_registered_again() {
    let (dir, daemon) = daemon();
    let at = free();
    let text = at.to_string();
    let arguments = ["--json", "listen", "--foreign", FOREIGN, "--local", &text];
    let mut holder = Holder::start(dir.path(), &arguments);
    let line: serde_json::Value = serde_json::from_str(&holder.line()).unwrap();
    assert_eq!(
        line,
        serde_json::json!({ "event": "listening", "proto": "tcp", "foreign": FOREIGN,
            "local": text, "peer": null, "flags": "listen" })
    );
    drop(daemon);
    for name in ["control.sock", "client.sock"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    let told = holder.told();
    assert!(
        told.contains("no daemon answers") || told.contains("closed"),
        "{told}"
    );
    let daemon = Scripted::start(dir.path(), Vec::new());
    assert_eq!(daemon.await_standing(), standing(at, FOREIGN, LISTEN));
    holder.send(Signal::SIGINT);
    assert_eq!(holder.code(), Some(0));
    assert_eq!(daemon.script().unassigned, 1);
}

#[test]
fn udp_registers_the_socket_of_whoever_is_bound() {
    let (dir, daemon) = daemon();
    let at = free();
    let text = at.to_string();
    let arguments = ["listen", "--udp", "--foreign", FOREIGN, "--local", &text];
    let mut holder = Holder::start(dir.path(), &arguments);
    assert_eq!(
        holder.told(),
        format!("xtproxy: waiting for a UDP socket at {at}\n")
    );
    let cookie = |socket: &UdpSocket| rustix::net::sockopt::socket_cookie(socket).unwrap();
    for turn in 0..2 {
        // Without SO_REUSEADDR, as most servers do it.
        let server = UdpSocket::bind(at).unwrap();
        let line = format!("listening udp {FOREIGN} for {at} [listen]\n");
        assert_eq!(holder.line(), line);
        assert_eq!(daemon.await_standing(), standing(at, FOREIGN, LISTEN));
        assert!(daemon.script().standing.contains_key(&cookie(&server)));
        if turn == 0 {
            drop(server);
            let waits = format!("xtproxy: waiting for a UDP socket at {at}\n");
            assert_eq!(holder.told(), waits, "nobody else keeps the socket open");
            // The daemon sees sockets close; this one does not look.
            daemon.script().standing.clear();
        } else {
            holder.send(Signal::SIGTERM);
            assert_eq!(holder.code(), Some(0));
            assert!(daemon.script().standing.is_empty());
            assert_eq!(daemon.script().unassigned, 1);
            drop(server);
        }
    }
}

#[test]
fn udp_starts_the_command_that_binds() {
    let (dir, daemon) = daemon();
    let at = free();
    let text = at.to_string();
    let python = format!(
        "import socket,sys; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); \
         s.bind(('127.0.0.1',{})); d=s.recv(9); sys.stdout.write(d.decode()); sys.exit(5)",
        at.port()
    );
    let arguments = [
        "listen",
        "--udp",
        "--foreign",
        FOREIGN,
        "--local",
        &text,
        "--",
        "python3",
        "-c",
        &python,
    ];
    let mut holder = Holder::start(dir.path(), &arguments);
    assert_eq!(daemon.await_standing(), standing(at, FOREIGN, LISTEN));
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.send_to(b"hello", at).unwrap();
    assert_eq!(holder.line(), "hello");
    assert_eq!(holder.code(), Some(5));
}

#[test]
fn assign_takes_any_flags_and_a_peer() {
    let (dir, daemon) = daemon();
    let at = free();
    let text = at.to_string();
    let arguments = [
        "assign",
        "--foreign",
        "198.51.100.7",
        "--local",
        &text,
        "--flags",
        "connect,once",
        "--peer",
        "192.0.2.1:80",
    ];
    let mut holder = Holder::start(dir.path(), &arguments);
    assert_eq!(
        holder.line(),
        format!("assigned tcp 198.51.100.7:0 for {at} with 192.0.2.1:80 [connect,once]\n")
    );
    let expected = Standing {
        peer: Some("192.0.2.1:80".parse().unwrap()),
        ..standing(at, "198.51.100.7:0", CONNECT | ONCE)
    };
    assert_eq!(daemon.await_standing(), expected);
    holder.send(Signal::SIGINT);
    assert_eq!(holder.code(), Some(0));
}

/// Takes one connection and sends all that comes back, in capitals.
fn echo() -> (SocketAddr, thread::JoinHandle<()>) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = server.local_addr().unwrap();
    let thread = thread::spawn(move || {
        let (mut stream, _) = server.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.make_ascii_uppercase();
        stream.write_all(&all).unwrap();
    });
    (at, thread)
}

#[test]
fn connect_joins_input_and_output() {
    let (dir, daemon) = daemon();
    let (at, server) = echo();
    let arguments = [
        "connect",
        "--foreign",
        "198.51.100.7:20",
        &format!("localhost:{}", at.port()),
    ];
    let mut command = xtproxy(dir.path(), &arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let sent = b"some words \xff\n".repeat(100_000);
    let expected = sent.to_ascii_uppercase();
    let writer = thread::spawn(move || input.write_all(&sent).unwrap());
    // While the input is open the server has not answered: the connection is there to be seen.
    let standing = daemon.await_standing();
    assert_eq!(standing.foreign, "198.51.100.7:20".parse().unwrap());
    assert_eq!(standing.local.ip(), at.ip());
    assert_eq!(standing.flags & CONNECT, CONNECT);
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    server.join().unwrap();
    assert!(output.stdout == expected, "{} bytes", output.stdout.len());
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn connect_runs_a_command_on_the_connection() {
    let (dir, _daemon) = daemon();
    let (at, server) = echo();
    let at = at.to_string();
    let arguments = [
        "connect",
        "--foreign",
        "198.51.100.7",
        "--local",
        "127.0.0.1",
        &at,
        "--",
        "python3",
        "-c",
        "import socket,sys; s=socket.socket(fileno=0); s.send(b'one'); s.shutdown(1); \
         sys.exit(4 if s.recv(9) == b'ONE' else 1)",
    ];
    let output = xtproxy(dir.path(), &arguments).output().unwrap();
    assert_eq!(outcome(output), (String::new(), String::new(), Some(4)));
    server.join().unwrap();
}

#[test]
fn refusals_are_one_line_and_nothing_is_run() {
    let (dir, daemon) = daemon();
    // Ports that are the same every time, of addresses of the loopback that nobody else uses.
    let local = "127.77.0.1:50021";
    let listen = [
        "listen",
        "--foreign",
        FOREIGN,
        "--local",
        local,
        "--",
        "echo",
        "run",
    ];
    let assign = [
        "assign",
        "--foreign",
        "203.0.113.5",
        "--local",
        local,
        "--flags",
        "connect",
    ];
    let mut all = String::new();
    let mut note = |dir: &Path, arguments: &[&str]| {
        let (out, told, code) = outcome(xtproxy(dir, arguments).output().unwrap());
        assert_eq!(out, "", "{arguments:?}");
        let told = told.replace(&dir.display().to_string(), "DIR");
        all += &format!(
            "$ xtproxy {}\n{told}exit code {}\n\n",
            arguments.join(" "),
            code.unwrap()
        );
    };
    for errno in [
        Errno::PERM,
        Errno::ADDRINUSE,
        Errno::EXIST,
        Errno::NOBUFS,
        Errno::INVAL,
    ] {
        daemon.script().refuse = errno.raw_os_error();
        note(dir.path(), &listen);
    }
    daemon.script().refuse = Errno::PERM.raw_os_error();
    note(dir.path(), &assign);
    let connect = [
        "connect",
        "--foreign",
        "203.0.113.5:20",
        "--local",
        "127.77.0.1",
        "127.0.0.1:9",
    ];
    daemon.script().refuse = 0;
    note(
        dir.path(),
        &[
            "connect",
            "--foreign",
            "203.0.113.5",
            "no-such-host.invalid:80",
        ],
    );
    let strange = [
        "listen",
        "--foreign",
        FOREIGN,
        "--local",
        "192.0.2.77:50021",
    ];
    note(dir.path(), &strange);
    let wildcard = UdpSocket::bind("0.0.0.0:50997").unwrap();
    let udp = [
        "listen",
        "--udp",
        "--foreign",
        FOREIGN,
        "--local",
        "127.77.0.1:50997",
    ];
    note(dir.path(), &udp);
    drop(wildcard);
    let nowhere = tempfile::tempdir().unwrap();
    for arguments in [&listen[..], &assign, &connect] {
        note(nowhere.path(), arguments);
    }
    assert_snapshot!("refusals", all);
}

#[test]
fn mistakes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let (foreign, local) = (["--foreign", FOREIGN], ["--local", "127.0.0.1:50021"]);
    let mistakes: [&[&[&str]]; 10] = [
        &[&["listen"], &foreign],
        &[&["listen", "--foreign", "203.0.113.5"], &local],
        &[&["listen", "--local", "127.0.0.1:0"], &foreign],
        &[&["listen", "--local", "[::1]:80"], &foreign],
        &[&["assign", "--flags", "listn"], &foreign, &local],
        &[&["assign", "--flags", "connect,mark"], &foreign, &local],
        &[&["assign"], &foreign, &local],
        &[&["connect", "--foreign", "203.0.113.5:x", "h:80"]],
        &[&["connect", "192.0.2.1"], &foreign],
        &[&["connect", "192.0.2.1:80", "--timeout", "0"], &foreign],
    ];
    let mut all = String::new();
    for arguments in mistakes {
        let arguments = arguments.concat();
        let (out, told, code) = outcome(xtproxy(dir.path(), &arguments).output().unwrap());
        assert_eq!((out.as_str(), code), ("", Some(2)), "{arguments:?}");
        all += &format!("$ xtproxy {}\n{told}\n", arguments.join(" "));
    }
    assert_snapshot!("holding_mistakes", all);
}

#[test]
fn help_teaches() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["listen", "assign", "connect"] {
        let output = xtproxy(dir.path(), &[command, "--help"]).output().unwrap();
        let (out, told, code) = outcome(output);
        assert_eq!((told.as_str(), code), ("", Some(0)));
        assert_snapshot!(format!("help_{command}"), out);
    }
}
