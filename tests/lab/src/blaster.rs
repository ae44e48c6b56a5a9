//! Sends hostile frames from an endpoint, for a bounded time and number.

use std::os::fd::AsRawFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrLike, bind, send, socket,
};

use crate::frames::Frames;
use crate::namespace::Namespace;

/// How much to send.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// For how long.
    pub time: Duration,
    /// How many frames at most.
    pub frames: u64,
    /// How many frames in one second at most, to leave the receivers a core.
    pub rate: u64,
}

/// Sends `frames` out of `eth0` of `namespace`; returns how many left.
pub fn blast(namespace: &Namespace, frames: &mut Frames, bounds: Bounds) -> Result<u64> {
    namespace.enter(|| {
        let links = getifaddrs()?;
        let address = links
            .filter(|link| link.interface_name == "eth0")
            .filter_map(|link| link.address)
            .find(|address| address.family() == Some(AddressFamily::Packet))
            .context("no eth0 to send from")?;
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            None,
        )?;
        let link = *address.as_link_addr().context("eth0 is no link")?;
        bind(socket.as_raw_fd(), &link)?;
        let sent = pump(socket.as_raw_fd(), frames, bounds)?;
        ensure!(sent > 0, "not one frame could be sent");
        Ok(sent)
    })
}

fn pump(socket: i32, frames: &mut Frames, bounds: Bounds) -> Result<u64> {
    /// Frames between two looks at the clock.
    const BURST: u64 = 50;
    let start = Instant::now();
    let mut sent = 0;
    while sent < bounds.frames && start.elapsed() < bounds.time {
        for _ in 0..BURST.min(bounds.frames - sent) {
            match send(socket, &frames.next_frame(), MsgFlags::empty()) {
                Ok(_) => sent += 1,
                Err(Errno::ENOBUFS | Errno::EAGAIN) => break,
                Err(error) => return Err(error).context("send"),
            }
        }
        let due = Duration::from_nanos(sent.saturating_mul(1_000_000_000) / bounds.rate.max(1));
        thread::sleep(due.saturating_sub(start.elapsed()).min(bounds.time));
    }
    Ok(sent)
}
