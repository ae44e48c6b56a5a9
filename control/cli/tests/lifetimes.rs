//! `listen`, `assign` and `connect` against the registry of the true server, in a network
//! namespace of the test's own thread.

#[path = "../../client/tests/stand_in/mod.rs"]
mod stand_in;

mod scripted;

use std::io::{BufReader, Read};
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, unshare};
use scripted::{eventually, line};
use serde_json::Value;
use stand_in::StandIn;
use tempfile::TempDir;

const FOREIGN: &str = "203.0.113.5:2121";
const LOCAL: &str = "10.77.0.1:50021";

/// A namespace with the address 10.77.0.1, and the server in it. The thread and what it starts
/// are in it from now on; it goes with them.
fn server() -> (TempDir, StandIn) {
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: run this as root");
    for arguments in ["link set lo up", "address add 10.77.0.1/32 dev lo"] {
        let status = Command::new("ip").args(arguments.split(' ')).status();
        assert!(status.unwrap().success(), "ip {arguments}");
    }
    stand_in::server()
}

fn xtproxy(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtproxy"));
    command.arg("--runtime-dir").arg(dir).args(arguments);
    command
}

/// The rows that the daemon has.
fn rows(dir: &Path) -> Vec<Value> {
    let output = xtproxy(dir, &["--json", "registrations"]).output().unwrap();
    let list: Value = serde_json::from_slice(&output.stdout).unwrap();
    list["registrations"].as_array().unwrap().clone()
}

fn await_rows(dir: &Path, count: usize) -> Vec<Value> {
    let mut found = Vec::new();
    eventually(&format!("{count} registrations"), || {
        found = rows(dir);
        found.len() == count
    });
    found
}

/// What a command says that is refused.
fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

/// One that holds, as soon as it says so. Dropped, it is killed.
struct Holder(Child);

impl Holder {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let line = line(&mut BufReader::new(child.stdout.take().unwrap()));
        let holder = Self(child);
        assert!(line.ends_with("]\n"), "{line:?}");
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_listener_stands_refuses_others_and_goes_even_when_killed() {
    let (dir, _daemon) = server();
    let dir = dir.path();
    let listen = ["listen", "--foreign", FOREIGN, "--local", LOCAL];
    let holder = Holder::start(xtproxy(dir, &listen));
    let row = await_rows(dir, 1).remove(0);
    assert_eq!(row["foreign"], FOREIGN);
    assert_eq!(row["local"], LOCAL);
    assert_eq!(row["uses"], serde_json::json!(["listen"]));
    assert_eq!(row["pid"], holder.0.id());
    assert_eq!(row["command"], "xtproxy");

    // Neither the same foreign address nor the same local one.
    let told = refused(xtproxy(
        dir,
        &["listen", "--foreign", FOREIGN, "--local", "10.77.0.1:1"],
    ));
    assert!(told.contains("the foreign address is taken"), "{told}");
    let told = refused(xtproxy(
        dir,
        &["listen", "--foreign", "203.0.113.6:1", "--local", LOCAL],
    ));
    assert!(told.contains("has a foreign address already"), "{told}");
    assert_eq!(rows(dir).len(), 1);

    drop(holder);
    await_rows(dir, 0);
}

#[test]
fn what_the_daemon_forbids_is_told_and_changes_nothing() {
    let (dir, _daemon) = server();
    let dir = dir.path();
    let told = refused(xtproxy(
        dir,
        &["listen", "--foreign", FOREIGN, "--local", "127.0.0.1:50021"],
    ));
    assert!(told.contains("bound to an address of the box"), "{told}");
    let told = refused(xtproxy(
        dir,
        &["listen", "--foreign", FOREIGN, "--local", "10.77.0.1:22"],
    ));
    assert!(told.contains("[[management]]"), "{told}");
    let told = refused(xtproxy(
        dir,
        &["listen", "--foreign", "224.0.0.1:1", "--local", LOCAL],
    ));
    assert!(told.contains("one that packets can have"), "{told}");

    // User 1000 has a grant for one network only.
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    let as_user = |foreign: &str| {
        let mut command = xtproxy(dir, &["listen", "--foreign", foreign, "--local", LOCAL]);
        command.uid(1000).gid(1000);
        command
    };
    let told = refused(as_user("192.0.2.1:80"));
    assert!(told.contains("no grant for the address"), "{told}");
    assert!(rows(dir).is_empty());
    let holder = Holder::start(as_user(FOREIGN));
    assert_eq!(await_rows(dir, 1)[0]["uid"], 1000);
    drop(holder);
    await_rows(dir, 0);
    // Beside a listener only root may.
    let _server = std::net::TcpListener::bind(LOCAL).unwrap();
    let told = refused(as_user(FOREIGN));
    assert!(told.contains("somebody listens there already"), "{told}");
    let _holder = Holder::start(xtproxy(
        dir,
        &["listen", "--foreign", FOREIGN, "--local", LOCAL],
    ));
    await_rows(dir, 1);
}

#[test]
fn a_udp_listener_lives_as_long_as_the_server_and_the_holder() {
    let (dir, _daemon) = server();
    let dir = dir.path();
    let server = UdpSocket::bind(LOCAL).unwrap();
    let listen = ["listen", "--udp", "--foreign", FOREIGN, "--local", LOCAL];
    let mut holder = Holder::start(xtproxy(dir, &listen));
    assert_eq!(await_rows(dir, 1)[0]["proto"], "udp");
    drop(server);
    await_rows(dir, 0);
    // The next one is registered too.
    let _server = UdpSocket::bind(LOCAL).unwrap();
    await_rows(dir, 1);
    let pid = nix::unistd::Pid::from_raw(holder.0.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(holder.0.wait().unwrap().code(), Some(0));
    assert!(rows(dir).is_empty(), "the server's socket is still there");
}

#[test]
fn many_connect_from_one_foreign_address_to_different_peers() {
    let (dir, _daemon) = server();
    let dir = dir.path();
    let assign = |local: &str, peer: &str| {
        let local = format!("10.77.0.1:{local}");
        let arguments = [
            "assign",
            "--foreign",
            "198.51.100.7:20",
            "--flags",
            "connect",
            "--local",
            &local,
            "--peer",
            peer,
        ];
        xtproxy(dir, &arguments)
    };
    let _one = Holder::start(assign("4001", "192.0.2.1:80"));
    let _other = Holder::start(assign("4002", "192.0.2.2:80"));
    await_rows(dir, 2);
    let told = refused(assign("4003", "192.0.2.2:80"));
    assert!(told.contains("taken"), "{told}");
}

#[test]
fn a_connection_is_registered_while_it_is_open() {
    let (dir, _daemon) = server();
    let dir = dir.path();
    // The kernel connects it to the box itself, past any dataplane: what counts here is the row.
    let server = std::net::TcpListener::bind("10.77.0.1:0").unwrap();
    let to = server.local_addr().unwrap().to_string();
    let arguments = [
        "connect",
        "--foreign",
        "198.51.100.7",
        &to,
        "--",
        "sh",
        "-c",
        "cat; exit 9",
    ];
    let mut child = xtproxy(dir, &arguments).spawn().unwrap();
    let (stream, _) = server.accept().unwrap();
    let row = await_rows(dir, 1).remove(0);
    assert_eq!(row["uses"][0], "connect");
    assert!(
        row["foreign"]
            .as_str()
            .unwrap()
            .starts_with("198.51.100.7:")
    );
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
    let mut rest = Vec::new();
    (&stream).read_to_end(&mut rest).unwrap();
    drop(stream);
    await_rows(dir, 0);
}
