//! Channels of other processes: that are another user's, die, or give their channel away. This
//! program starts itself again as the other process, so it has its own `main`. As root; in a
//! network namespace of its own.

mod fixture;
mod namespace;
mod proxy;

use std::env;
use std::fs::{self, File, Permissions};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use fixture::Running;
use proxy::{Proxy, Raw, SOON, bound, handover, local, record};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use shm::Operation;
use socket2::Type;

/// Says to be the other process: the folder of the server, and the socket to report to.
const ROLE: &str = "XTPROXY_SERVER_TEST_ROLE";
/// Said to the other process: nobody may look into it.
const HIDDEN: &str = "XTPROXY_SERVER_TEST_HIDDEN=1";
const FOREIGN: &str = "203.0.113.9:0";
const ASSIGN: u32 = 1;
const QUERY: u32 = 3;

fn main() {
    if env::var_os(ROLE).is_some() {
        let paths: Vec<String> = env::args().skip(1).collect();
        return give_away(Path::new(&paths[0]), Path::new(&paths[1]));
    }
    let tests: [(&str, fn()); 6] = [
        ("a killed client is forgotten", killed),
        ("a child has what its parent has, and no longer", child),
        ("a process's numbers are its own", numbers),
        ("grants go by user and group", grants),
        (
            "a program with more rights is not its caller's",
            more_rights,
        ),
        ("strangers leave room to whom a grant names", strangers),
    ];
    for (name, test) in tests {
        namespace::inside(test);
        println!("test {name} ... ok");
    }
}

/// The other process: opens a channel and binds a socket, gives the channel to who listens, as
/// a child of it would have it, and waits.
fn give_away(dir: &Path, to: &Path) {
    if env::var_os("XTPROXY_SERVER_TEST_HIDDEN").is_some() {
        nix::sys::prctl::set_dumpable(false).unwrap();
    }
    let (handover, stream) = handover(dir);
    let socket = bound(Type::STREAM);
    let to = UnixStream::connect(to).unwrap();
    let given = [
        handover.memory.as_fd(),
        handover.doorbell.as_fd(),
        stream.as_fd(),
    ];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    assert!(beside.push(SendAncillaryMessage::ScmRights(&given)));
    let told = [socket.as_raw_fd(), i32::from(local(&socket).port())];
    let told = told.map(i32::to_ne_bytes).concat();
    sendmsg(
        &to,
        &[IoSlice::new(&told)],
        &mut beside,
        SendFlags::NOSIGNAL,
    )
    .unwrap();
    nix::unistd::dup2_stdin(&socket).unwrap();
    // Until it is killed, nobody is left to do so, or it is to become another program.
    let mut program = String::new();
    (&to).read_to_string(&mut program).unwrap();
    if !program.is_empty() {
        panic!("{program}: {}", Command::new(&program).arg("60").exec());
    }
}

/// The other process and its channel. It does not outlive this value.
struct Other {
    process: Child,
    channel: Raw,
    /// Its socket's number, there.
    number: i32,
    port: u16,
    told_by: UnixStream,
}

impl Other {
    fn start(dir: &Path, command: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for path in [dir, folder.path()] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
        let mut words = command
            .iter()
            .map(Into::into)
            .chain([env::current_exe().unwrap()]);
        let mut process = Command::new(words.next().unwrap())
            .args(words)
            .args([dir, &path])
            .env(ROLE, "1")
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        listener.set_nonblocking(true).unwrap();
        let start = Instant::now();
        let told_by = loop {
            if let Ok((socket, _)) = listener.accept() {
                break socket;
            }
            assert!(process.try_wait().unwrap().is_none(), "it ended early");
            assert!(start.elapsed() < SOON, "it does not connect");
            thread::sleep(Duration::from_millis(1));
        };
        told_by.set_nonblocking(false).unwrap();
        told_by.set_read_timeout(Some(SOON)).unwrap();
        let (channel, [number, port]) = receive(&told_by);
        Self {
            process,
            channel,
            number,
            port: u16::try_from(port).unwrap(),
            told_by,
        }
    }

    fn assign(&mut self, number: i32, foreign: &str) -> i32 {
        self.channel
            .call(&record(ASSIGN, 0, 0, number, Some(foreign)))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn receive(from: &UnixStream) -> (Raw, [i32; 2]) {
    let mut told = [0; 8];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut data = [IoSliceMut::new(&mut told)];
    recvmsg(from, &mut data, &mut beside, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut given: Vec<OwnedFd> = Vec::new();
    for message in beside.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            given.extend(fds);
        }
    }
    let [memory, bell, stream]: [OwnedFd; 3] = given.try_into().unwrap();
    let channel = Raw::of(File::from(memory), bell, UnixStream::from(stream));
    let [a, b, c, d, e, f, g, h] = told;
    let told = [[a, b, c, d], [e, f, g, h]].map(i32::from_ne_bytes);
    (channel, told)
}

fn live(running: &Running) -> u64 {
    running.registry.lock().unwrap().counts().live
}

/// How many threads serve clients.
fn client_threads() -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.trim_end() == "client").count()
}

fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "{what} takes too long");
        thread::sleep(Duration::from_millis(2));
    }
}

fn killed() {
    let (dir, running) = fixture::server();
    let mut other = Other::start(dir.path(), &[]);
    let number = other.number;
    assert_eq!(other.assign(number, FOREIGN), 0);
    let rows = running.registry.lock().unwrap().rows(fixture::NOW_NS);
    assert_eq!(
        (rows[0].pid, rows[0].local.port()),
        (other.process.id(), other.port)
    );
    // "processes-…", as far as the kernel keeps it.
    assert!(rows[0].command.starts_with("processes-"), "{:?}", rows[0]);
    assert_eq!((live(&running), client_threads()), (1, 1));
    other.process.kill().unwrap();
    // We still hold its end of the connection.
    wait_until("the end of its thread", SOON, || client_threads() == 0);
    other.channel.assert_cut_off();
    other.process.wait().unwrap();
    wait_until(
        "the end of its registrations",
        Duration::from_secs(1),
        || live(&running) == 0,
    );
}

fn child() {
    let (dir, running) = fixture::server();
    let mut other = Other::start(dir.path(), &[]);
    let number = other.number;
    // What the child opens itself, the parent does not have.
    let mut own = vec![bound(Type::STREAM)];
    while own[own.len() - 1].as_raw_fd() <= number {
        own.push(bound(Type::STREAM));
    }
    let own = &own[own.len() - 1];
    assert_eq!(other.assign(own.as_raw_fd(), FOREIGN), libc::EBADF);
    assert_eq!(other.assign(number, FOREIGN), 0);
    other.process.kill().unwrap();
    other.process.wait().unwrap();
    other.channel.assert_cut_off();
    wait_until("its end", SOON, || {
        (live(&running), client_threads()) == (0, 0)
    });
}

fn numbers() {
    let (dir, running) = fixture::server();
    let mut one = Other::start(dir.path(), &[]);
    let mut two = Other::start(dir.path(), &[]);
    assert_eq!(one.number, two.number, "they do the same");
    assert_ne!(one.port, two.port);
    let number = one.number;
    assert_eq!(one.assign(number, FOREIGN), 0);
    // The same number is another socket there.
    let query = record(QUERY, 1, 0, number, None);
    assert_eq!(two.channel.call(&query), libc::ENOENT);
    assert_eq!(two.assign(number, "203.0.113.10:0"), 0);
    let mut locals: Vec<u16> = {
        let rows = running.registry.lock().unwrap().rows(fixture::NOW_NS);
        rows.iter().map(|row| row.local.port()).collect()
    };
    locals.sort_unstable();
    let mut expected = [one.port, two.port];
    expected.sort_unstable();
    assert_eq!(locals, expected);
    drop(one);
    wait_until("its end", SOON, || live(&running) == 1);
    assert_eq!(two.channel.call(&query), 0, "the other goes on");
    let us = Proxy::new(dir.path());
    let socket = bound(Type::STREAM);
    assert_eq!(us.get(Operation::Query, &socket), Err(libc::ENOENT));
}

fn grants() {
    const BY_USER: &str = "203.0.113.9:0";
    const BY_GROUP: &str = "198.51.100.9:0";
    let (dir, running) = fixture::server();
    let cases: [(&[&str], i32, i32); 3] = [
        (
            &["--reuid=1000", "--regid=1000", "--clear-groups"],
            0,
            libc::EPERM,
        ),
        (
            &["--reuid=1001", "--regid=1001", "--groups=7,2000"],
            libc::EPERM,
            0,
        ),
        (
            &["--reuid=1001", "--regid=1001", "--clear-groups"],
            libc::EPERM,
            libc::EPERM,
        ),
    ];
    for (words, by_user, by_group) in cases {
        for (foreign, expected) in [(BY_USER, by_user), (BY_GROUP, by_group)] {
            let command = [&["setpriv"], words].concat();
            let mut other = Other::start(dir.path(), &command);
            let number = other.number;
            assert_eq!(
                other.assign(number, foreign),
                expected,
                "{words:?} {foreign}"
            );
        }
    }
    wait_until("their end", SOON, || live(&running) == 0);
}

/// A file capability as the file system keeps it: version 2, effective, CAP_NET_BIND_SERVICE.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn more_rights() {
    let plain = |_: &Path| {};
    let of_group = |program: &Path| {
        std::os::unix::fs::chown(program, None, Some(2000)).unwrap();
        fs::set_permissions(program, Permissions::from_mode(0o2755)).unwrap();
    };
    let of_root = |program: &Path| {
        fs::set_permissions(program, Permissions::from_mode(0o4755)).unwrap();
    };
    let capable = |program: &Path| {
        let flags = rustix::fs::XattrFlags::CREATE;
        rustix::fs::setxattr(program, "security.capability", &CAPABILITY, flags).unwrap();
    };
    let user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"];
    type Make<'a> = &'a dyn Fn(&Path);
    let cases: [(&str, Make<'_>, i32); 4] = [
        ("plain", &plain, 0),
        ("set-user-ID", &of_root, libc::EPERM),
        ("set-group-ID", &of_group, libc::EPERM),
        ("capable", &capable, libc::EPERM),
    ];
    for is_hidden in [false, true] {
        for (name, make, expected) in cases {
            let (dir, _running) = fixture::server();
            let program = dir.path().join("become");
            fs::copy("/usr/bin/sleep", &program).unwrap();
            fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
            make(&program);
            let hidden = ["env", HIDDEN];
            let words = [&user[..], if is_hidden { &hidden } else { &[] }].concat();
            let mut other = Other::start(dir.path(), &words);
            let number = other.number;
            assert_eq!(other.assign(number, FOREIGN), 0, "{name} {is_hidden}");
            (&other.told_by)
                .write_all(program.to_str().unwrap().as_bytes())
                .unwrap();
            other.told_by.shutdown(std::net::Shutdown::Write).unwrap();
            let status = format!("/proc/{}/stat", other.process.id());
            // Asleep, it has been through all of its beginning.
            wait_until("the other program", SOON, || {
                let text = fs::read_to_string(&status).unwrap();
                text.contains("(become) S")
            });
            // Its standard input is the same socket.
            let query = record(QUERY, 1, 0, 0, None);
            assert_eq!(other.channel.call(&query), expected, "{name} {is_hidden}");
        }
    }
}

/// Connects up to `most` times as this user and group. The connections that were let in.
fn crowd(dir: &Path, uid: u32, gid: u32, most: usize) -> Vec<UnixStream> {
    use rustix::thread::{set_thread_res_gid, set_thread_res_uid};
    let path = dir.join(protocol::CLIENT_SOCKET);
    // Ids are a thread's own, for the kernel.
    let connecting = thread::spawn(move || {
        let (uid, gid) = (
            rustix::fs::Uid::from_raw(uid),
            rustix::fs::Gid::from_raw(gid),
        );
        set_thread_res_gid(gid, gid, gid).unwrap();
        set_thread_res_uid(uid, uid, uid).unwrap();
        let connect = |_| {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.set_read_timeout(Some(SOON)).unwrap();
            let _ = stream.write_all(b"{\"version\":9,\"request\":\"x\"}\n");
            let mut answer = [0; 512];
            let read = stream.read(&mut answer).unwrap();
            let is_in = String::from_utf8_lossy(&answer[..read]).contains("\"version\"");
            is_in.then_some(stream)
        };
        (0..most).map_while(connect).collect()
    });
    connecting.join().unwrap()
}

fn strangers() {
    let (dir, _running) = fixture::server();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let count = |uid, gid| crowd(dir.path(), uid, gid, 300);
    let (one, two) = (count(3000, 3000), count(3001, 3001));
    assert_eq!((one.len(), two.len()), (256, 256));
    assert!(count(3002, 3002).is_empty(), "half is theirs");
    assert_eq!(count(1000, 1000).len(), 256, "named as a user");
    assert_eq!(crowd(dir.path(), 3003, 2000, 10).len(), 10, "by his group");
    let user = ["setpriv", "--reuid=1001", "--regid=1001", "--groups=7,2000"];
    let mut other = Other::start(dir.path(), &user);
    let number = other.number;
    assert_eq!(
        other.assign(number, "198.51.100.9:0"),
        0,
        "by another group"
    );
}
