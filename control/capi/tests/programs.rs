//! C programs, compiled against the headers and run with the library, against a daemon that
//! answers by script.

#[path = "../../client/tests/scripted/mod.rs"]
mod scripted;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use scripted::{Daemon, Say, errno};
use shm::{Access, Operation, Reply, Request};
use tempfile::TempDir;

/// What every program is compiled with.
const STRICT: [&str; 5] = ["-std=c89", "-pedantic", "-Wall", "-Wextra", "-Werror"];

const ENOENT: i32 = 2;

/// The folder of this package.
fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder in which everything stands where an installation has it.
struct Installed(TempDir);

impl Installed {
    fn new() -> Self {
        let prefix = tempfile::tempdir().unwrap();
        let built = std::env::current_exe().unwrap();
        let built = built.parent().unwrap();
        let (include, lib) = (prefix.path().join("include"), prefix.path().join("lib"));
        let old = include.join("xtproxy/linux/netfilter_ipv4");
        std::fs::create_dir_all(lib.join("pkgconfig")).unwrap();
        std::fs::create_dir_all(&old).unwrap();
        let copy = |from: PathBuf, to: PathBuf| {
            std::fs::copy(&from, to).unwrap_or_else(|e| panic!("{}: {e}", from.display()));
        };
        copy(here().join("include/xtproxy.h"), include.join("xtproxy.h"));
        let tproxy = here().join("include/ip_tproxy.h");
        copy(tproxy.clone(), include.join("xtproxy/ip_tproxy.h"));
        copy(tproxy, old.join("ip_tproxy.h"));
        copy(built.join("libxtproxy.a"), lib.join("libxtproxy.a"));
        copy(built.join("libxtproxy.so"), lib.join("libxtproxy.so.0"));
        std::os::unix::fs::symlink("libxtproxy.so.0", lib.join("libxtproxy.so")).unwrap();
        let description = std::fs::read_to_string(here().join("xtproxy.pc.in")).unwrap();
        let description = description
            .replace("@prefix@", prefix.path().to_str().unwrap())
            .replace("@libdir@", "${exec_prefix}/lib")
            .replace("@includedir@", "${prefix}/include")
            .replace("@version@", env!("CARGO_PKG_VERSION"));
        std::fs::write(lib.join("pkgconfig/xtproxy.pc"), description).unwrap();
        Self(prefix)
    }

    fn path(&self, below: &str) -> String {
        self.0.path().join(below).to_str().unwrap().to_owned()
    }

    /// What the description says.
    fn flags(&self, ask: &[&str]) -> Vec<String> {
        let mut command = Command::new("pkg-config");
        command.args(ask).arg("xtproxy");
        let found = output(command.env("PKG_CONFIG_PATH", self.path("lib/pkgconfig")));
        let found = String::from_utf8(found.stdout).unwrap();
        found.split_whitespace().map(Into::into).collect()
    }

    /// Compiles a program.
    fn compile(&self, source: &Path) -> PathBuf {
        let program = self.0.path().join(source.file_stem().unwrap());
        let mut command = Command::new("cc");
        command.args(STRICT).args(["-g", "-D_GNU_SOURCE", "-o"]);
        command.arg(&program).arg(source);
        command.arg(format!("-I{}", self.path("include/xtproxy")));
        command.args(self.flags(&["--cflags", "--libs"]));
        command.arg("-pthread");
        output(&mut command);
        program
    }

    fn test_program(&self, name: &str) -> PathBuf {
        self.compile(&here().join("tests/c").join(name).with_extension("c"))
    }

    /// The command that runs a program with the library.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env("LD_LIBRARY_PATH", self.path("lib"));
        command
    }

    /// Runs a program of the tests to its end; says what it printed.
    fn run(&self, name: &str, arguments: &[&str]) -> String {
        let program = self.test_program(name);
        let ended = output(self.command(&program).args(arguments));
        String::from_utf8(ended.stdout).unwrap()
    }
}

/// Runs a command, which must not fail, to its end.
fn output(command: &mut Command) -> Output {
    let command = command.stdin(Stdio::null());
    let ended = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(
        ended.status.success(),
        "{command:?}: {}\n{said}",
        ended.status
    );
    ended
}

fn endpoint(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

fn full() -> Reply {
    Reply {
        flags: 0x8_0002,
        version: 0x0200_0006,
        foreign: endpoint("203.0.113.5:2121"),
        peer: endpoint("198.51.100.7:4000"),
        ..Reply::default()
    }
}

fn daemon(script: impl FnMut(&Request) -> Say + Send + 'static) -> (TempDir, Daemon) {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path(), script);
    (dir, daemon)
}

#[test]
fn headers_stand_alone_in_any_dialect() {
    let include = format!("-I{}", here().join("include").display());
    for header in ["xtproxy.h", "ip_tproxy.h"] {
        let header = here().join("include").join(header);
        let check = ["-fsyntax-only", &include];
        let c = |dialect: &str| {
            let mut command = Command::new("cc");
            command
                .args(["-x", "c"])
                .args(STRICT)
                .arg(dialect)
                .args(check);
            output(command.arg(&header));
        };
        c("-std=c89");
        c("-std=c17");
        let mut command = Command::new("clang");
        command.args(["-x", "c++", "-std=c++98", "-Wall", "-Wextra", "-Werror"]);
        output(command.args(check).arg(&header));
    }
}

#[test]
fn the_header_and_the_library_name_the_same_functions() {
    let header = std::fs::read_to_string(here().join("include/xtproxy.h")).unwrap();
    let declared: BTreeSet<String> = header
        .split("/*")
        .filter_map(|part| {
            part.split_once("*/")
                .map_or(Some(part), |(_, code)| Some(code))
        })
        .flat_map(|code| code.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '(')))
        .filter_map(|word| word.split_once('('))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.starts_with("xtproxy_"))
        .collect();
    let installed = Installed::new();
    let mut nm = Command::new("nm");
    let found = output(nm.args(["-D", "--defined-only", &installed.path("lib/libxtproxy.so")]));
    let exported: BTreeSet<String> = String::from_utf8(found.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split(' ').nth(2))
        .map(Into::into)
        .collect();
    assert!(declared.len() > 15, "{declared:?}");
    assert_eq!(declared, exported);
}

#[test]
fn every_function_asks_and_tells_what_it_should() {
    let (dir, daemon) = daemon(|_| full().into());
    let installed = Installed::new();
    let said = installed.run("operations", &[dir.path().to_str().unwrap()]);
    assert_eq!(said, include_str!("c/operations.expected"));
    let asked = daemon.asked();
    let fd = asked[0].fd;
    let words: Vec<_> = asked.iter().map(|request| in_words(request, fd)).collect();
    let expected: Vec<_> = include_str!("c/operations.requests").lines().collect();
    assert_eq!(words, expected);
}

/// A request in one line.
fn in_words(request: &Request, fd: i32) -> String {
    assert_eq!(request.fd, fd);
    let Request {
        operation, access, ..
    } = request;
    let mut words = format!("{operation:?} {access:?}");
    let shown = |name: &str, endpoint: Option<SocketAddr>| {
        endpoint.map_or(String::new(), |at| format!(" {name} {at}"))
    };
    words += &shown("foreign", request.foreign);
    words += &shown("peer", request.peer);
    if request.flags != 0 {
        words += &format!(" flags {:#x}", request.flags);
    }
    if request.version != 0 {
        words += &format!(" version {:#x}", request.version);
    }
    words
}

#[test]
fn every_errno_comes_out_of_every_function() {
    let numbers = [1, 2, 9, 14, 17, 22, 88, 92, 98, 105];
    let mut calls = numbers.into_iter().flat_map(|number| [number; 12]);
    let (dir, _daemon) = daemon(move |_| errno(calls.next().unwrap()));
    let texts = numbers.map(|number| number.to_string());
    let mut arguments = vec![dir.path().to_str().unwrap()];
    arguments.extend(texts.iter().map(String::as_str));
    assert_eq!(Installed::new().run("errnos", &arguments), "over\n");
}

#[test]
fn parent_and_child_get_on_after_fork() {
    let (dir, daemon) = daemon(|_| full().into());
    let said = Installed::new().run("fork", &[dir.path().to_str().unwrap()]);
    assert_eq!(said, "failed: 0\n");
    // The parent's channel, and one for each child.
    assert_eq!(daemon.channels(), 21);
    daemon.await_open(0);
}

/// Answers for a program whose listener's socket it looks at.
struct Watched {
    pid: Arc<AtomicI32>,
    local: Arc<Mutex<Option<SocketAddrV4>>>,
}

impl Watched {
    /// Of two accepted sockets the first belongs to somebody else.
    fn daemon() -> (TempDir, Daemon, Self) {
        let mut accepted = 0;
        Self::answering(move |request| {
            if request.operation == Operation::OriginalDestination {
                accepted += 1;
                if accepted == 1 {
                    return errno(ENOENT);
                }
            }
            full().into()
        })
    }

    /// Answers by a script, once it has looked.
    fn answering(
        mut script: impl FnMut(&Request) -> Say + Send + 'static,
    ) -> (TempDir, Daemon, Self) {
        let watched = Self {
            pid: Arc::default(),
            local: Arc::default(),
        };
        let (pid, local) = (Arc::clone(&watched.pid), Arc::clone(&watched.local));
        let (dir, daemon) = daemon(move |request| {
            let is_listener = request.operation == Operation::AssignFlags && request.flags == 2;
            if is_listener && pid.load(Ordering::SeqCst) == 0 {
                return Say::Later;
            }
            if is_listener {
                *local.lock().unwrap() = Some(local_of(pid.load(Ordering::SeqCst), request));
            }
            script(request)
        });
        (dir, daemon, watched)
    }

    /// Where the program listens.
    fn await_local(&self, child: &Child) -> SocketAddrV4 {
        self.pid.store(child.id().cast_signed(), Ordering::SeqCst);
        let start = Instant::now();
        loop {
            if let Some(local) = *self.local.lock().unwrap() {
                return local;
            }
            assert!(start.elapsed() < scripted::SOON, "it does not listen");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The local address of a socket of another process.
fn local_of(pid: i32, request: &Request) -> SocketAddrV4 {
    let process = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
    let socket = pidfd_getfd(process, request.fd, PidfdGetfdFlags::empty()).unwrap();
    let local = rustix::net::getsockname(socket).unwrap();
    let local = SocketAddr::try_from(local).unwrap().to_string();
    local.parse().unwrap()
}

/// A program that does not outlive this value.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads all that comes, for a while at most.
fn read_all(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(scripted::SOON)).unwrap();
    let mut said = String::new();
    match stream.read_to_string(&mut said) {
        Ok(_) => said,
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => said,
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn a_program_listens_and_connects() {
    let (dir, daemon, watched) = Watched::daemon();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = server.local_addr().unwrap();
    let installed = Installed::new();
    let program = installed.test_program("foreign");
    let mut command = installed.command(&program);
    command.arg(dir.path()).arg(to.port().to_string());
    let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let local = watched.await_local(&running.0);
    let mut lines = BufReader::new(running.0.stdout.take().unwrap()).lines();
    let mut line = || lines.next().unwrap().unwrap();
    assert_eq!(line(), local.port().to_string());
    let stranger = TcpStream::connect(local).unwrap();
    let client = TcpStream::connect(local).unwrap();
    let (mut served, _) = server.accept().unwrap();
    served.write_all(b"x").unwrap();
    assert_eq!(line(), "198.51.100.7:4000");
    assert_eq!(read_all(client), "x");
    assert_eq!(read_all(stranger), "");
    assert!(running.0.wait().unwrap().success());
    let asked = daemon.asked();
    let connect = asked.iter().find(|request| request.flags == 1).unwrap();
    assert_eq!(connect.operation, Operation::AssignFlags);
    assert_eq!(connect.foreign, full().peer);
    assert_eq!(connect.peer, Some(to));
    assert_eq!(connect.access, Access::Set);
}

#[test]
fn a_daemon_that_fails_costs_no_connection() {
    let mut dying = 0;
    let (dir, _daemon, watched) = Watched::answering(move |request| {
        if request.operation == Operation::OriginalDestination {
            dying += 1;
            // Each question is asked twice.
            if dying <= 4 {
                return Say::Die;
            }
        }
        full().into()
    });
    let installed = Installed::new();
    let program = installed.test_program("patient");
    let mut command = installed.command(&program);
    command.arg(dir.path()).stdout(Stdio::piped());
    let mut running = Running(command.spawn().unwrap());
    let local = watched.await_local(&running.0);
    let client = TcpStream::connect(local).unwrap();
    assert_eq!(read_all(client), "x");
    assert!(running.0.wait().unwrap().success());
    let mut said = String::new();
    let mut stdout = running.0.stdout.take().unwrap();
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(said, format!("{}\n2\n198.51.100.7:4000\n", local.port()));
}

#[test]
fn the_example_greets() {
    let (dir, _daemon, watched) = Watched::daemon();
    let installed = Installed::new();
    let program = installed.compile(&here().join("examples/foreign_listen.c"));
    let mut command = installed.command(&program);
    command.args(["203.0.113.5", "2121", "127.0.0.1", "1"]);
    command.env("XTPROXY_RUNTIME_DIR", dir.path());
    let mut running = Running(command.stdout(Stdio::piped()).spawn().unwrap());
    let local = watched.await_local(&running.0);
    let _stranger = TcpStream::connect(local).unwrap();
    let greeted = read_all(TcpStream::connect(local).unwrap());
    assert_eq!(greeted, "hello 198.51.100.7:4000\n");
    let mut said = String::new();
    let mut stdout = running.0.stdout.take().unwrap();
    stdout.read_to_string(&mut said).unwrap();
    assert_eq!(said, format!("listening on 203.0.113.5:2121\n{greeted}"));
    assert!(running.0.wait().unwrap().success());
}

#[test]
fn the_example_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let installed = Installed::new();
    let program = installed.compile(&here().join("examples/foreign_listen.c"));
    let mut command = installed.command(&program);
    command.args(["203.0.113.5", "2121", "127.0.0.1"]);
    let ended = command.env("XTPROXY_RUNTIME_DIR", dir.path()).output();
    let ended = ended.unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let expected = format!(
        "foreign_listen: no daemon answers at {}: start xtproxyd, or name its runtime directory\n",
        dir.path().join("client.sock").display()
    );
    assert_eq!(String::from_utf8(ended.stderr).unwrap(), expected);
}

#[test]
fn a_program_can_be_linked_statically() {
    let (dir, _daemon) = daemon(|_| full().into());
    let installed = Installed::new();
    let program = installed.0.path().join("static");
    let mut command = Command::new("cc");
    command.args(STRICT).args(["-D_GNU_SOURCE", "-o"]);
    command
        .arg(&program)
        .arg(here().join("tests/c/operations.c"));
    command.arg(format!("-I{}", installed.path("include/xtproxy")));
    command.arg(format!("-I{}", installed.path("include")));
    command.arg(installed.path("lib/libxtproxy.a"));
    let all = installed.flags(&["--libs", "--static"]);
    let private = all.iter().filter(|flag| *flag != "-lxtproxy");
    output(command.args(private));
    let ended = output(Command::new(&program).arg(dir.path()));
    let said = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(said, include_str!("c/operations.expected"));
}

#[test]
fn a_daemon_that_hangs_up_is_no_signal() {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("client.sock")).unwrap();
    let hanging_up = thread::spawn(move || {
        for _ in 0..TIMES {
            drop(listener.accept().unwrap());
        }
    });
    const TIMES: u32 = 300;
    let times = TIMES.to_string();
    let said = Installed::new().run("hangup", &[dir.path().to_str().unwrap(), &times]);
    assert_eq!(said, "");
    hanging_up.join().unwrap();
}

#[test]
fn sources_written_for_tproxy_compile() {
    assert_eq!(Installed::new().run("old_source", &[]), "");
}
