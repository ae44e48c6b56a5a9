//! A box with `nic`, xtp0 and xtp0-dp in one namespace, and a neighbour on the
//! other end of `nic` in another.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use xdp_prog::{EndpointMap, Mode, PortConfig, PortProgram, SocketMaps};

use crate::fixture::{self, CLIENT, NIC, OWN, no_endpoints, no_sockets, taken, xsk};
use crate::netns::{Neighbour, ifindex, mac, run};

pub struct Lab {
    pub neighbour: Neighbour,
    pub nic: u32,
    pub host: u32,
}

/// The addresses of the fixture; every neighbour known, so that no ARP is needed.
pub fn lab() -> Lab {
    // Without the kernel's own chatter each frame can be counted.
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
    let neighbour = Neighbour::start();
    for command in [
        "ip link add nic address 02:00:00:00:00:01 type veth peer name far address 02:00:00:00:00:02",
        "ip link add xtp0 type veth peer name xtp0-dp",
        "ip addr add 192.168.1.1/24 dev nic",
        "ip link set nic up",
        "ip link set xtp0 up",
        "ip link set xtp0-dp up",
        "ip neigh add 192.168.1.10 lladdr 02:00:00:00:00:02 dev nic",
    ] {
        run(command);
    }
    neighbour.take("far");
    neighbour.commands(&[
        "ip addr add 192.168.1.10/24 dev far",
        "ip link set far up",
        "ip neigh add 192.168.1.1 lladdr 02:00:00:00:00:01 dev far",
        "ip route add default via 192.168.1.1",
    ]);
    assert_eq!(mac("nic"), NIC);
    Lab {
        neighbour,
        nic: ifindex("nic"),
        host: ifindex("xtp0"),
    }
}

impl Lab {
    /// A port with a socket that nobody reads, attached.
    pub fn port(&self, mode: Mode, max_frame_bytes: u32) -> (PortProgram, OwnedFd) {
        self.port_with(mode, max_frame_bytes, &no_endpoints(), &no_sockets())
    }

    /// The same that knows of single endpoints and of sockets.
    pub fn port_with(
        &self,
        mode: Mode,
        max_frame_bytes: u32,
        endpoints: &EndpointMap,
        sockets: &SocketMaps,
    ) -> (PortProgram, OwnedFd) {
        let config = PortConfig {
            interface: "nic".into(),
            ifindex: self.nic,
            mode,
            max_frame_bytes,
            host_ifindex: self.host,
            ..fixture::config()
        };
        let mut program = PortProgram::load(&config, endpoints, sockets).unwrap();
        let socket = xsk();
        program.set_socket(0, socket.as_fd()).unwrap();
        program
            .set_addresses(&[(OWN, vec![taken(17, 9000..=9000)])], &[])
            .unwrap();
        program.attach().unwrap();
        (program, socket)
    }

    /// The neighbour sends one buffer, in segments if asked.
    pub fn send(&self, to: &'static str, bytes: usize, segment: Option<i32>) {
        self.neighbour.run(move || {
            let socket = UdpSocket::bind((CLIENT, 0)).unwrap();
            if let Some(segment) = segment {
                setsockopt(&socket, sockopt::UdpGsoSegment, &segment).unwrap();
            }
            socket.send_to(&vec![7; bytes], to).unwrap();
        });
    }
}

pub fn count(counters: &[(&str, u64)], name: &str) -> u64 {
    counters
        .iter()
        .find(|(n, _)| *n == name)
        .unwrap_or_else(|| panic!("no counter {name}"))
        .1
}

/// All that arrives at the interfaces of this namespace.
pub struct Tap(OwnedFd);

impl Tap {
    pub fn open() -> Self {
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_NONBLOCK,
            SockProtocol::EthAll,
        )
        .unwrap();
        Self(socket)
    }

    /// The first frame with IPv4 in it that arrives at `link` within two seconds.
    pub fn ipv4_at(&self, link: &str) -> Option<Vec<u8>> {
        self.find_ipv4(Duration::from_secs(2), link, |_| true)
    }

    /// The first that is wanted, within another time.
    pub fn find_ipv4(
        &self,
        patience: Duration,
        link: &str,
        is_wanted: impl Fn(&[u8]) -> bool,
    ) -> Option<Vec<u8>> {
        let (wanted, end) = (ifindex(link) as usize, Instant::now() + patience);
        let mut buffer = vec![0; 1 << 16];
        while Instant::now() < end {
            let Ok((len, Some(from))) = recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut buffer)
            else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            let is_ipv4 = from.ifindex() == wanted && buffer[12..14] == [8, 0];
            if is_ipv4 && is_wanted(&buffer[..len]) {
                return Some(buffer[..len].to_vec());
            }
        }
        None
    }
}

pub fn wait_for(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(2);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}
