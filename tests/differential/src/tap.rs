//! The far end of a wire: sends frames to the firewall and sees what it sends.

use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Namespace;
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv, send,
    socket,
};

use crate::outcome::Seen;
use crate::packet::{Packet, Side};

/// Who asks for the firewall's address, so that its answer marks the end.
const ASKER: [u8; 6] = [2, 0, 0, 0, 0, 0xa5];
const PATIENCE: Duration = Duration::from_secs(10);

/// The far end of one side's wire.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    side: Side,
    /// The firewall's hardware address here.
    pub near: [u8; 6],
}

impl Tap {
    /// Opens it in the namespace `far`.
    pub fn open(fw: &Namespace, far: &Namespace, side: Side) -> Result<Self> {
        let near = fw.mac(side.interface())?;
        let socket = far.enter(|| {
            let links = getifaddrs()?;
            let address = links
                .filter(|link| link.interface_name == side.interface())
                .filter_map(|link| link.address)
                .find(|address| address.family() == Some(AddressFamily::Packet));
            let address = address.context("no such link")?;
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let all = SockProtocol::EthAll;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, all)?;
            let link = address.as_link_addr().context("no link")?;
            bind(socket.as_raw_fd(), link)?;
            Ok(socket)
        })?;
        Ok(Tap { socket, side, near })
    }

    /// Sends a packet to the firewall.
    pub fn send(&self, packet: &Packet) -> Result<()> {
        self.put(&packet.frame(self.near, packet.mac))
    }

    /// All IPv4 that the firewall has sent here, in answer to whatever was sent before.
    pub fn collect(&self, seen: &mut Vec<Seen>) -> Result<()> {
        self.put(&question(self.side))?;
        let until = Instant::now() + PATIENCE;
        let mut bytes = [0; 2048];
        loop {
            match recv(self.socket.as_raw_fd(), &mut bytes, MsgFlags::empty()) {
                Ok(len) => match bytes.get(..len) {
                    // The socket sees what it sends, too.
                    Some(frame) if frame.get(6..12) != Some(&self.near[..]) => {}
                    Some(frame) if frame[..6] == ASKER => return Ok(()),
                    Some([_, _, _, _, _, _, _, _, _, _, _, _, 8, 0, packet @ ..]) => {
                        seen.extend(Seen::parse(packet));
                    }
                    _ => {}
                },
                Err(Errno::EAGAIN) => {
                    ensure!(Instant::now() < until, "the firewall answers no ARP");
                    std::thread::sleep(Duration::from_micros(100));
                }
                Err(error) => return Err(error).context("the far end"),
            }
        }
    }

    fn put(&self, frame: &[u8]) -> Result<()> {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).context("the far end")?;
        Ok(())
    }
}

/// An ARP request for the firewall's address.
fn question(side: Side) -> Vec<u8> {
    let [a, b, c, _] = side.address().octets();
    let mut frame = vec![0xff; 6];
    frame.extend(ASKER);
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(ASKER);
    frame.extend([a, b, c, 250]);
    frame.extend([0; 6]);
    frame.extend(side.address().octets());
    frame
}
