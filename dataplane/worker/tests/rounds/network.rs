//! A network for one test: two pairs of interfaces, whose near ends are the worker's and whose
//! far ends the test's.
//!
//! It belongs to the test's thread and ends with it, panic or not.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libbpf_rs::{MapCore, MapFlags, Object, ObjectBuilder, Xdp, XdpFlags};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv, send,
    socket,
};
use worker::Worker;

/// Near end of the NIC's pair, for a worker's lane.
pub const NIC: &str = "nic";
/// What is at the other end of the NIC's wire.
pub const WIRE: &str = "wire";
/// Near end of the host port's pair.
pub const HOST: &str = "host";
/// The stack's end of the host port.
pub const STACK: &str = "stack";

/// Steers all that a queue receives into its socket; with BTF for the map, and no header.
const STEER: &str = r#"
struct {
	int (*type)[17]; /* BPF_MAP_TYPE_XSKMAP */
	int (*max_entries)[1];
	int (*key_size)[4];
	int (*value_size)[4];
} xsks __attribute__((section(".maps"), used));
static long (*redirect_map)(void *, unsigned long long, unsigned long long) = (void *)51;
__attribute__((section("xdp"), used)) int steer(void *ctx)
{
	return redirect_map(&xsks, 0, 1 /* XDP_DROP */);
}
"#;

/// Runs a test in a network namespace of its own.
pub fn isolated(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
        for (near, far) in [(NIC, WIRE), (HOST, STACK)] {
            ip(&format!("link add {near} type veth peer name {far}"));
            for end in [near, far] {
                // Silent but for the test: no IPv6 address, hence no word about it.
                ip(&format!("link set {end} addrgenmode none"));
                ip(&format!("link set {end} up"));
            }
        }
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {words}: {said}");
}

/// Steering programs on the near ends; they go with their interfaces.
pub struct Steering(#[expect(dead_code, reason = "holds the maps")] Vec<Object>);

impl Steering {
    pub fn attach(worker: &Worker) -> Self {
        let elf = compile();
        let attach = |(spec, socket): (&worker::LaneSpec, BorrowedFd<'_>)| {
            let object = ObjectBuilder::default().open_memory(&elf).unwrap();
            let object = object.load().unwrap();
            let fd = socket.as_raw_fd().to_ne_bytes();
            for map in object.maps() {
                map.update(&[0; 4], &fd, MapFlags::ANY).unwrap();
            }
            let program = object.progs_mut().next().unwrap();
            let idx = nix::net::if_::if_nametoindex(spec.interface.as_str()).unwrap();
            Xdp::new(program.as_fd())
                .attach(idx.cast_signed(), XdpFlags::DRV_MODE)
                .unwrap();
            object
        };
        Self(worker.sockets().map(attach).collect())
    }
}

fn compile() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let object = folder.path().join("steer.o");
    let mut clang = Command::new("clang")
        .args(["-O2", "-g", "-target", "bpf", "-x", "c", "-c", "-", "-o"])
        .arg(&object)
        .stdin(Stdio::piped())
        .spawn()
        .expect("clang is needed");
    std::io::Write::write_all(&mut clang.stdin.take().unwrap(), STEER.as_bytes()).unwrap();
    assert!(clang.wait().unwrap().success());
    std::fs::read(&object).unwrap()
}

/// The test's end of a pair: sends frames, and gets what the worker sends.
pub struct End(OwnedFd);

impl End {
    pub fn open(interface: &str) -> Self {
        let links = nix::ifaddrs::getifaddrs().unwrap();
        let address = links
            .filter(|link| link.interface_name == interface)
            .filter_map(|link| link.address)
            .find(|address| address.family() == Some(AddressFamily::Packet))
            .unwrap();
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .unwrap();
        bind(socket.as_raw_fd(), address.as_link_addr().unwrap()).unwrap();
        Self(socket)
    }

    pub fn send(&self, frame: &[u8]) {
        let sent = send(self.0.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
        assert_eq!(sent, frame.len());
    }

    /// The next frame with IPv4 in it, if there is one within `patience`.
    pub fn receive(&self, patience: Duration) -> Option<Vec<u8>> {
        let until = Instant::now() + patience;
        let mut bytes = [0; 2048];
        loop {
            match recv(self.0.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Ok(len) if bytes[12..14] == [8, 0] => return Some(bytes[..len].to_vec()),
                Ok(_) => {}
                Err(nix::errno::Errno::EAGAIN) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(nix::errno::Errno::EAGAIN) => return None,
                Err(error) => panic!("receive: {error}"),
            }
        }
    }
}
