//! The relay: real connections over loopback, made to look redirected by the flow table.

mod stand_in;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket, sockopt};
use stand_in::{StandIn, example, server};

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);

/// A relay that runs, and the daemon that it asks.
struct Relay {
    child: Child,
    at: SocketAddr,
    lines: Mutex<Receiver<String>>,
    daemon: StandIn,
    _dir: tempfile::TempDir,
}

impl Relay {
    fn start() -> Self {
        let (dir, daemon) = server();
        let program = example("relay");
        let mut child = Command::new(&program)
            .args([
                "--listen",
                "127.0.0.1:0",
                "--connect-timeout",
                "5",
                "--runtime-dir",
            ])
            .arg(dir.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", program.display()));
        let log = BufReader::new(child.stderr.take().unwrap());
        let (told, lines) = channel();
        std::thread::spawn(move || {
            log.lines()
                .map_while(Result::ok)
                .try_for_each(|line| told.send(line))
        });
        let mut relay = Self {
            child,
            at: (Ipv4Addr::LOCALHOST, 0).into(),
            lines: Mutex::new(lines),
            daemon,
            _dir: dir,
        };
        let line = relay.line_with("listening on ");
        relay.at = line.rsplit(' ').next().unwrap().parse().unwrap();
        relay
    }

    /// Waits for a line of the log.
    fn line_with(&self, words: &str) -> String {
        let deadline = Instant::now() + LONG;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.lines.lock().unwrap().recv_timeout(left);
            let line = line.unwrap_or_else(|e| panic!("no line with {words:?}: {e}"));
            if line.contains(words) {
                return line;
            }
        }
    }

    /// Connects to the relay as one who wanted to reach `wanted`.
    fn connect(&self, wanted: SocketAddr) -> TcpStream {
        let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&fd, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let client = TcpStream::from(fd);
        let seen = client.local_addr().unwrap();
        let source = SocketAddr::from(([10, 1, 0, 2], seen.port()));
        self.daemon
            .put("redirect", [source, wanted], [self.at, seen]);
        connect(&client, &self.at).unwrap();
        client.set_read_timeout(Some(LONG)).unwrap();
        client
    }

    /// Connects to `server` through the relay: the client's and the server's end.
    fn pair(&self, server: &TcpListener) -> (TcpStream, TcpStream) {
        let client = self.connect(server.local_addr().unwrap());
        let (accepted, _) = server.accept().unwrap();
        accepted.set_read_timeout(Some(LONG)).unwrap();
        (client, accepted)
    }

    fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn web() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn read_all(mut stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

fn reset(stream: TcpStream) {
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
}

fn assert_reset(mut stream: &TcpStream) {
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
}

#[test]
fn each_side_closes_its_own_half() {
    let (relay, web) = (Relay::start(), web());
    let (mut client, mut server) = relay.pair(&web);
    client.write_all(b"a question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_all(&server), b"a question");
    server.write_all(b"a late answer").unwrap();
    drop(server);
    assert_eq!(read_all(&client), b"a late answer");
    let line = relay.line_with("bytes up");
    let port = client.local_addr().unwrap().port();
    let (wanted, via) = (web.local_addr().unwrap(), relay.at);
    let told = format!("10.1.0.2:{port} -> {wanted} via {via}: 10 bytes up, 13 down,");
    assert!(line.contains(&told) && line.ends_with("done"), "{line}");
}

#[test]
fn a_reset_is_passed_on_both_ways() {
    let (relay, web) = (Relay::start(), web());
    let (client, mut server) = relay.pair(&web);
    server.write_all(b"x").unwrap();
    reset(server);
    assert_reset(&client);
    let (client, server) = relay.pair(&web);
    reset(client);
    assert_reset(&server);
}

#[test]
fn a_reset_is_seen_while_the_other_side_does_not_read() {
    let (relay, web) = (Relay::start(), web());
    let (mut client, server) = relay.pair(&web);
    // Until relay and kernels are full.
    client
        .set_write_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    while client.write_all(&[0; 65536]).is_ok() {}
    reset(client);
    let line = relay.line_with("bytes up");
    assert!(line.contains("aborted"), "{line}");
    drop(server);
}

#[test]
fn a_large_transfer_arrives_whole() {
    let (relay, web) = (Relay::start(), web());
    let (mut client, mut server) = relay.pair(&web);
    let block: Vec<u8> = (0..1_000_003_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..64 {
                server.write_all(&block).unwrap();
            }
            server.shutdown(Shutdown::Write).unwrap();
        });
        let mut part = vec![0; block.len()];
        for _ in 0..64 {
            client.read_exact(&mut part).unwrap();
            assert!(part == block, "bytes have changed on the way");
        }
        assert_eq!(client.read(&mut part).unwrap(), 0);
    });
}

#[test]
fn a_hundred_at_once() {
    let (relay, web) = (Relay::start(), web());
    let clients: Vec<_> = (0..100).map(|_| relay.pair(&web)).collect();
    for (at, (client, _)) in clients.iter().enumerate() {
        (&*client).write_all(&[at as u8; 100]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
    }
    for (at, (_, server)) in clients.iter().enumerate() {
        assert_eq!(read_all(server), [at as u8; 100]);
    }
}

#[test]
fn who_was_not_redirected_is_refused() {
    let relay = Relay::start();
    let direct = TcpStream::connect(relay.at).unwrap();
    direct.set_read_timeout(Some(LONG)).unwrap();
    assert_reset(&direct);
    relay.line_with("refused: not a redirected connection");
}

#[test]
fn a_loop_is_refused() {
    let relay = Relay::start();
    let client = relay.connect(relay.at);
    assert_reset(&client);
    relay.line_with("would loop");
}

#[test]
fn a_server_that_refuses_is_a_reset_for_the_client() {
    let relay = Relay::start();
    let nobody = web().local_addr().unwrap();
    let client = relay.connect(nobody);
    assert_reset(&client);
    relay.line_with(&format!("refused: {nobody}"));
}

#[test]
fn sigterm_drains() {
    let (mut relay, web) = (Relay::start(), web());
    let (mut client, server) = relay.pair(&web);
    relay.terminate();
    relay.line_with("draining 1 connections");
    assert!(TcpStream::connect(relay.at).is_err(), "it still listens");
    client.write_all(b"last words").unwrap();
    drop(client);
    assert_eq!(read_all(&server), b"last words");
    drop(server);
    assert!(relay.child.wait().unwrap().success());
}
