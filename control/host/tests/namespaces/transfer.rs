//! A bulk transfer that is routed into the host port, as the dataplane's end sees it.
//!
//! ```text
//! source c0 --(veth with all offloads)-- a0 router xtp0 --(the host port)-- xtp0-dp sink
//! ```

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use host::{Changes, HostPort, KernelVersion, Netlink};
use nix::sys::socket::MsgFlags;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::namespace::{Namespace, block_on, run};

const MTU: u32 = 1400;
const SINK: &str = "10.9.0.2:5001";
const BYTES: usize = 48 << 20;

struct Line {
    source: Namespace,
    router: Namespace,
    sink: Namespace,
}

impl Line {
    fn new(dir: &std::path::Path) -> Self {
        let line = Self {
            source: Namespace::new(),
            router: Namespace::new(),
            sink: Namespace::new(),
        };
        let (source, sink) = (line.source.tid, line.sink.tid);
        let dir = dir.to_owned();
        line.router
            .start(move || {
                block_on(async {
                    let netlink = Netlink::open().expect("netlink");
                    let mut changes = Changes::open(&dir).expect("opened");
                    HostPort::create(&netlink, &mut changes, "xtp0", 2, MTU)
                        .await
                        .expect("created");
                });
                run(&format!(
                    "ip link add a0 type veth peer name c0 netns {source}"
                ));
                run(&format!("ip link set xtp0-dp netns {sink}"));
                // In use nobody speaks ARP on the host port; here two stacks do.
                run("ip link set xtp0 arp on");
                run("ip address add 10.9.0.1/24 dev xtp0");
                run("ip address add 10.8.0.1/24 dev a0");
                run("ip link set a0 up");
                std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("a router");
            })
            .recv()
            .expect("done");
        line.source.run(&[
            "ip link set c0 up",
            "ip address add 10.8.0.2/24 dev c0",
            "ip route add default via 10.8.0.1",
        ]);
        line.sink.run(&[
            "ip link set xtp0-dp arp on",
            "ip link set xtp0-dp up",
            "ip address add 10.9.0.2/24 dev xtp0-dp",
            "ip route add default via 10.9.0.1",
        ]);
        for namespace in [&line.source, &line.sink] {
            namespace
                .start(|| {
                    std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "cubic")
                        .or_else(|_| {
                            std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "reno")
                        })
                        .expect("a congestion control that sends in bursts");
                })
                .recv()
                .expect("done");
        }
        line
    }

    /// What the kernel's end of the host port could not hand over so far.
    fn dropped(&self) -> usize {
        let told = self.router.start(|| run("ip -s link show xtp0"));
        field(&told.recv().expect("counters"), "TX:", "dropped")
    }

    /// Sends from the source to the sink.
    fn transfer(&self) {
        let listener = self
            .sink
            .start(|| TcpListener::bind(SINK).expect("bound"))
            .recv()
            .expect("listening");
        let sent = self.source.start(|| {
            let mut stream = TcpStream::connect(SINK).expect("connected");
            stream.write_all(&pattern()).expect("sent");
            stream.shutdown(Shutdown::Write).expect("ended");
            assert_eq!(stream.read(&mut [0]).expect("the sink's end"), 0);
        });
        let (mut stream, _) = listener.accept().expect("accepted");
        let mut received = Vec::with_capacity(BYTES);
        stream.read_to_end(&mut received).expect("received");
        assert!(received == pattern(), "the stream is not what was sent");
        drop(stream);
        sent.recv().expect("sent");
    }
}

fn pattern() -> Vec<u8> {
    (0..BYTES as u32 / 4)
        .flat_map(|word| word.wrapping_mul(0x9e37_79b9).to_ne_bytes())
        .collect()
}

#[test]
fn what_arrives_is_segmented_and_whole() {
    let dir = tempfile::tempdir().expect("a folder");
    let line = Line::new(dir.path());
    let ready = line.sink.start(Capture::open).recv().expect("capturing");
    let over = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&over);
    let capture = std::thread::spawn(move || ready.judge(&until));
    line.transfer();
    over.store(true, Ordering::Relaxed);
    let seen = capture.join().expect("every frame is whole");
    assert!(seen.frames > BYTES / MTU as usize / 2, "{seen:?}");
    assert_eq!(seen.longest, MTU as usize + 14, "{seen:?}");
    // The test is none unless super-packets came to the router.
    let told = line.router.start(|| run("ip -s -s link show a0")).recv();
    let packets = field(&told.expect("counters"), "RX:", "packets");
    assert!(
        packets < seen.frames / 2,
        "{packets} before, {seen:?} behind"
    );
}

/// The dataplane's end takes packets through the veth's ring of 256, as it does under XDP.
#[test]
fn a_burst_is_held_back_and_not_lost() {
    let dir = tempfile::tempdir().expect("a folder");
    let line = Line::new(dir.path());
    line.sink.run(&["ethtool -K xtp0-dp gro on"]);
    let before = line.dropped();
    line.transfer();
    // Before that version a full ring drops whatever queue is in front of it.
    let holds_back = KernelVersion {
        major: 6,
        minor: 16,
    };
    if KernelVersion::running().expect("known") < holds_back {
        return;
    }
    // What was sent twice because this machine was busy arrived twice.
    let sent = line.source.start(|| counter("snmp", "Tcp", "OutSegs"));
    let arrived = line.sink.start(|| {
        ["InNoECTPkts", "InECT0Pkts", "InECT1Pkts", "InCEPkts"]
            .map(|name| counter("netstat", "IpExt", name))
            .iter()
            .sum::<u64>()
    });
    let (sent, arrived) = (sent.recv().expect("sent"), arrived.recv().expect("arrived"));
    assert!(arrived >= sent, "{sent} sent, {arrived} arrived");
    assert_eq!(line.dropped(), before);
}

/// A counter of this thread's namespace.
fn counter(file: &str, group: &str, name: &str) -> u64 {
    let path = format!("/proc/thread-self/net/{file}");
    let text = std::fs::read_to_string(path).expect("counters");
    let mut lines = text
        .lines()
        .filter_map(|line| line.strip_prefix(group)?.strip_prefix(':'));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    names
        .split(' ')
        .zip(values.split(' '))
        .find_map(|(found, value)| (found == name).then(|| value.parse().expect("a number")))
        .expect(name)
}

/// A counter that `ip -s link` shows.
fn field(told: &str, direction: &str, name: &str) -> usize {
    let mut lines = told.lines().skip_while(|line| !line.contains(direction));
    let (names, values) = (lines.next().expect("names"), lines.next().expect("values"));
    let names = names.split_whitespace().skip(1);
    names
        .zip(values.split_whitespace())
        .find_map(|(found, value)| (found == name).then(|| value.parse().expect("a number")))
        .expect("a counter")
}

#[derive(Debug, Default)]
struct Seen {
    frames: usize,
    longest: usize,
}

struct Capture(std::os::fd::OwnedFd);

impl Capture {
    fn open() -> Self {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .expect("a packet socket");
        setsockopt(&socket, sockopt::RcvBufForce, &(64 << 20)).expect("a large buffer");
        setsockopt(
            &socket,
            sockopt::ReceiveTimeout,
            &TimeVal::milliseconds(200),
        )
        .expect("a timeout");
        Self(socket)
    }

    /// Looks at each frame of the stream until it is over and none is left.
    fn judge(self, over: &AtomicBool) -> Seen {
        let mut seen = Seen::default();
        let mut buffer = vec![0; 1 << 17];
        loop {
            let last = over.load(Ordering::Relaxed);
            let len = match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(len) => len,
                Err(_) if last => break,
                Err(_) => continue,
            };
            let frame = &buffer[..len];
            let ip = &frame[14..];
            if frame[12..14] != [8, 0] || ip[16..20] != [10, 9, 0, 2] {
                continue;
            }
            let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            let (header, segment) = ip[..total].split_at(usize::from(ip[0] & 15) * 4);
            assert_eq!(sum(header, 0), 0xffff, "the IP header's checksum");
            let pseudo = [&header[12..20], &[0, 6][..]].concat();
            let length = u16::try_from(segment.len()).expect("short");
            let pseudo = sum(&pseudo, u32::from(length));
            assert_eq!(
                sum(segment, pseudo.into()),
                0xffff,
                "the segment's checksum"
            );
            seen.frames += 1;
            seen.longest = seen.longest.max(len);
        }
        seen
    }
}

fn sum(bytes: &[u8], start: u32) -> u16 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}
