//! A namespace with a server, a proxy and somebody who wants to connect.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use rustix::net::sockopt::socket_cookie;
use xdp_prog::{Capture, CaptureListener, CaptureNode, CaptureOtherwise, CaptureStep, CaptureTest};

use crate::netns::run;

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// Where the connections want to go.
pub const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 80);
/// Where the proxy listens.
pub const PROXY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 50080);

/// A server in another process; it ends with its owner.
pub struct Peer {
    child: Child,
    pub pid: u32,
}

impl Peer {
    pub fn start(name: &str, at: SocketAddrV4) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/capture/peer.py");
        let mut child = Command::new("python3")
            .args([script, name, &at.ip().to_string(), &at.port().to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let out = child.stdout.as_mut().unwrap();
        BufReader::new(out).read_line(&mut line).unwrap();
        let pid = line.trim().parse().expect("the server says its number");
        Self { child, pid }
    }

    /// By SIGKILL.
    pub fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn at(&self, at: SocketAddrV4) -> CaptureListener {
        CaptureListener {
            at,
            pids: vec![self.pid],
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Loopback, the server "server" and the proxy "proxy".
pub struct Place {
    _server: Peer,
    pub proxy: Peer,
}

impl Place {
    pub fn make() -> Self {
        run("ip link set lo up");
        run("ip addr add 192.0.2.1/32 dev lo");
        run("ip addr add 192.0.2.2/32 dev lo");
        Self {
            _server: Peer::start("server", SERVER),
            proxy: Peer::start("proxy", PROXY),
        }
    }

    /// The proxy is known, and gets what goes to the server's port 80, wherever that is.
    pub fn capture(&self) -> Capture {
        let mut capture = Capture::attach(64).unwrap_or_else(|e| panic!("{e}"));
        capture.set_listeners(&[self.proxy.at(PROXY)]).unwrap();
        capture.set(&port_80_to(to_proxy())).unwrap();
        capture
    }
}

pub fn node(step: CaptureStep) -> CaptureNode {
    CaptureNode { step, counts: true }
}

pub fn to_proxy() -> CaptureStep {
    to(PROXY, CaptureOtherwise::Reject)
}

pub fn to(proxy: SocketAddrV4, otherwise: CaptureOtherwise) -> CaptureStep {
    CaptureStep::Redirect {
        addr: *proxy.ip(),
        port: Some(proxy.port()),
        otherwise,
    }
}

/// A question, and what happens if the answer is as wanted; all else goes.
pub fn when(test: CaptureTest, wanted: bool, step: CaptureStep) -> Vec<CaptureNode> {
    let (then, otherwise) = if wanted { (1, 2) } else { (2, 1) };
    let ask = CaptureStep::Ask {
        test,
        then,
        otherwise,
    };
    [ask, step, CaptureStep::Go].map(node).to_vec()
}

pub fn port_80_to(step: CaptureStep) -> Vec<CaptureNode> {
    when(CaptureTest::Ports(80..=80), true, step)
}

/// Says something over a connection; what comes back, up to the end of the line.
pub fn talk(stream: &mut TcpStream, say: &str) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(format!("{say}\n").as_bytes()).unwrap();
    let mut heard = String::new();
    BufReader::new(stream).read_line(&mut heard).unwrap();
    heard.trim().to_owned()
}

pub fn connect(to: SocketAddrV4) -> Result<TcpStream, Errno> {
    let connected = TcpStream::connect_timeout(&SocketAddr::V4(to), PATIENCE);
    connected.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap()))
}

/// Who answers there.
pub fn who(at: SocketAddrV4) -> Result<String, Errno> {
    connect(at).map(|mut stream| talk(&mut stream, "name"))
}

pub fn ask(at: SocketAddrV4, say: &str) -> String {
    talk(&mut connect(at).unwrap(), say)
}

pub fn cookie(stream: &TcpStream) -> u64 {
    socket_cookie(stream).unwrap()
}

/// A command's output, whether or not it succeeds.
pub fn output(program: &str, arguments: &[&str]) -> String {
    let mut child = Command::new(program)
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let mut said = String::new();
    let mut out = child.stdout.take().unwrap();
    out.read_to_string(&mut said).unwrap();
    child.wait().unwrap();
    said.trim().to_owned()
}

pub fn counter(capture: &Capture, name: &str) -> u64 {
    let counters = capture.counters().unwrap();
    let found = counters.iter().find(|(of, _)| *of == name);
    found.unwrap_or_else(|| panic!("{name}: {counters:?}")).1
}
