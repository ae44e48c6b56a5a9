//! A socket of the second registration, which is ours: zero-copy.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::xdp::{XdpDesc, XdpDescOptions};
use rustix::net::{RecvFlags, SendFlags, recv, send};
use xsk_rs::FrameDesc;

use crate::error::{Error, bind_error};
use crate::lane::{BindMode, CHUNK, LaneConfig};
use crate::mapping::Mapping;
use crate::region::{Chunks, Frame, Region};
use crate::ring::{Consumer, Producer};
use crate::socket::{Maps, Place, Unbound, bind_mode};

/// The rings. Descriptors go in and out as the rights that they are: what a method takes is
/// drained from where it stood, what it gives is nowhere else.
pub(crate) struct SecondRings {
    rx: Consumer<Mapping<XdpDesc>>,
    tx: Producer<Mapping<XdpDesc>>,
    fill: Producer<Mapping<u64>>,
    comp: Consumer<Mapping<u64>>,
    socket: Arc<OwnedFd>,
    /// Keeps the region's memory as long as the kernel may hand out chunks of it.
    chunks: Chunks,
    received: [XdpDesc; CHUNK],
    completed: [u64; CHUNK],
}

impl SecondRings {
    /// Opens a socket, and with the first one the registration, whose mode `config` says.
    /// Returns how many chunks are with the kernel.
    pub(crate) fn open(
        region: &mut Region,
        config: &LaneConfig<'_>,
    ) -> Result<(Self, usize), Error> {
        let refused = |source| bind_error(config, source);
        let place = Place::find(config).map_err(refused)?;
        region
            .second
            .retain(|(_, socket)| socket.strong_count() > 0);
        if region.second.iter().any(|(taken, _)| *taken == place) {
            return Err(refused(Errno::BUSY.into()));
        }
        let unbound = Unbound::new(config.ring).map_err(refused)?;
        let Maps { rx, tx, fill, comp } = unbound.map().map_err(refused)?;
        // SAFETY: these rings are new and mapped once; the kernel has their other ends.
        let rx = unsafe { Consumer::new(rx) };
        // SAFETY: as above.
        let tx = unsafe { Producer::new(tx) };
        // SAFETY: as above.
        let mut fill = unsafe { Producer::new(fill) };
        // SAFETY: as above.
        let comp = unsafe { Consumer::new(comp) };
        // Before the bind: a driver that finds no chunk then may not look again.
        let from = region.free.len().saturating_sub(config.fill as usize);
        let filled = fill.put(region.free[from..].iter().map(|desc| desc.addr() as u64));
        let socket = Arc::new(bind(region, config, place, unbound)?);
        region.free.drain(from..from + filled);
        region.second.push((place, Arc::downgrade(&socket)));
        let rings = Self {
            rx,
            tx,
            fill,
            comp,
            socket,
            chunks: region.chunks.clone(),
            received: [frame(0, 0); CHUNK],
            completed: [0; CHUNK],
        };
        Ok((rings, filled))
    }

    pub(crate) fn take(&mut self, into: &mut Vec<Frame>, most: usize) -> usize {
        let taken = self.rx.take(&mut self.received[..most]);
        let frames = self.received[..taken].iter().filter_map(|desc| {
            // SAFETY: the chunk went into the fill ring by value, and the kernel has given it
            // up by putting it here.
            unsafe { self.chunks.received(desc.addr, desc.len) }
        });
        into.extend(frames.map(Frame));
        taken
    }

    pub(crate) fn send(&mut self, staged: &mut Vec<FrameDesc>) {
        let frames = staged
            .iter()
            .map(|desc| frame(desc.addr() as u64, desc.lengths().data() as u32));
        let sent = self.tx.put(frames);
        staged.drain(..sent);
    }

    pub(crate) fn reap(&mut self, free: &mut Vec<FrameDesc>) -> usize {
        let done = self.comp.take(&mut self.completed);
        let completed = self.completed[..done].iter();
        free.extend(completed.filter_map(|offset| self.chunks.at(*offset)));
        done
    }

    pub(crate) fn fill(&mut self, free: &mut Vec<FrameDesc>, want: usize) -> usize {
        let from = free.len().saturating_sub(want);
        let given = self
            .fill
            .put(free[from..].iter().map(|desc| desc.addr() as u64));
        free.drain(from..from + given);
        // A driver that ran out of chunks waits to be told of new ones, and may have said so
        // only after the last ones were put in.
        if self.fill.memory().wants_wakeup() && self.fill.unread() > 0 {
            // What is wrong with the interface, sending and polling will say.
            let _ = recv(&self.socket, &mut [0_u8; 0], RecvFlags::DONTWAIT);
        }
        given
    }

    pub(crate) fn unsent(&mut self) -> u32 {
        self.tx.unread()
    }

    pub(crate) fn wants_wakeup(&self) -> bool {
        self.tx.memory().wants_wakeup()
    }

    pub(crate) fn wake(&self) -> io::Result<()> {
        match send(&self.socket, &[], SendFlags::DONTWAIT) {
            // It is at work, has no memory right now, or the link is down.
            Ok(_) | Err(Errno::NOBUFS | Errno::AGAIN | Errno::BUSY | Errno::NETDOWN) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn frame(addr: u64, len: u32) -> XdpDesc {
    XdpDesc {
        addr,
        len,
        options: XdpDescOptions::empty(),
    }
}

/// Binds to the registration that an open socket has, or else makes one.
fn bind(
    region: &Region,
    config: &LaneConfig<'_>,
    place: Place,
    unbound: Unbound,
) -> Result<OwnedFd, Error> {
    let refused = |source: io::Error| match source.raw_os_error() {
        // Drivers without zero-copy say the one, a virtio device that may not the other.
        Some(libc::EOPNOTSUPP | libc::EINVAL) if config.mode == BindMode::ZeroCopy => {
            Error::NoZeroCopy {
                interface: config.interface.to_owned(),
            }
        }
        _ => bind_error(config, source),
    };
    for owner in region
        .second
        .iter()
        .filter_map(|(_, socket)| socket.upgrade())
    {
        match unbound.bind_shared(place, owner.as_fd()) {
            Ok(()) => return confirm(config, unbound.into_socket()),
            // The owner's interface has gone, and its binding with it.
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            Err(error) => return Err(refused(error)),
        }
    }
    let frames = region.total();
    let (address, len) = region.extent();
    unbound
        .register(address, len)
        .map_err(|source| Error::Region { frames, source })?;
    unbound.bind_first(place, config.mode).map_err(refused)?;
    confirm(config, unbound.into_socket())
}

/// Gives the socket on if the kernel says that it is bound as it was asked for.
fn confirm(config: &LaneConfig<'_>, socket: OwnedFd) -> Result<OwnedFd, Error> {
    let mode = bind_mode(socket.as_fd()).map_err(|source| bind_error(config, source))?;
    if mode == config.mode {
        Ok(socket)
    } else {
        Err(Error::NoZeroCopy {
            interface: config.interface.to_owned(),
        })
    }
}
