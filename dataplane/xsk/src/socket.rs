//! An AF_XDP socket of our own, not bound yet, and its rings' memory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::sockopt::{
    set_xdp_rx_ring_size, set_xdp_tx_ring_size, set_xdp_umem_completion_ring_size,
    set_xdp_umem_fill_ring_size, set_xdp_umem_reg, xdp_mmap_offsets, xdp_options,
};
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XdpDesc, XdpMmapOffsets,
    XdpOptionsFlags, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, netdevice, socket, socket_with};

use crate::error::Error;
use crate::lane::{BindMode, LaneConfig};
use crate::mapping::{Mapping, Which};
use crate::region::CHUNK_BYTES;

/// Whether this kernel has AF_XDP sockets.
///
/// # Errors
/// [`Error::NoAfXdp`] if not.
pub fn kernel_has_af_xdp() -> Result<(), Error> {
    match socket(AddressFamily::XDP, SocketType::RAW, None) {
        Err(Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT) => Err(Error::NoAfXdp),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A queue of an interface.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) interface_idx: u32,
    pub(crate) queue: u32,
}

impl Place {
    /// Finds the interface in this thread's network namespace.
    pub(crate) fn find(config: &LaneConfig<'_>) -> io::Result<Self> {
        // An AF_XDP socket answers no questions about interfaces.
        let asker = socket(AddressFamily::UNIX, SocketType::DGRAM, None)?;
        Ok(Self {
            interface_idx: netdevice::name_to_index(&asker, config.interface)?,
            queue: config.queue,
        })
    }
}

/// The memory of a socket's four rings.
pub(crate) struct Maps {
    pub(crate) rx: Mapping<XdpDesc>,
    pub(crate) tx: Mapping<XdpDesc>,
    pub(crate) fill: Mapping<u64>,
    pub(crate) comp: Mapping<u64>,
}

/// A socket that has its rings and is not bound.
pub(crate) struct Unbound {
    fd: OwnedFd,
    layout: XdpMmapOffsets,
    ring: u32,
}

impl Unbound {
    /// Makes the socket and its four rings of `ring` slots.
    pub(crate) fn new(ring: u32) -> io::Result<Self> {
        let fd = socket_with(
            AddressFamily::XDP,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            None,
        )?;
        set_xdp_umem_fill_ring_size(&fd, ring)?;
        set_xdp_umem_completion_ring_size(&fd, ring)?;
        set_xdp_rx_ring_size(&fd, ring)?;
        set_xdp_tx_ring_size(&fd, ring)?;
        let layout = xdp_mmap_offsets(&fd)?;
        Ok(Self { fd, layout, ring })
    }

    /// Registers `len` bytes at `address` as this socket's packet memory. The kernel pins the
    /// pages until the last socket that uses the registration is gone.
    pub(crate) fn register(&self, address: u64, len: u64) -> io::Result<()> {
        let memory = XdpUmemReg {
            addr: address,
            len,
            chunk_size: CHUNK_BYTES,
            headroom: 0,
            flags: XdpUmemRegFlags::empty(),
            tx_metadata_len: 0,
        };
        Ok(set_xdp_umem_reg(&self.fd, memory)?)
    }

    /// Maps the four rings.
    pub(crate) fn map(&self) -> io::Result<Maps> {
        let fd = self.fd.as_fd();
        let XdpMmapOffsets { rx, tx, fr, cr } = &self.layout;
        Ok(Maps {
            rx: Mapping::new(fd, Which::Receive, rx, self.ring)?,
            tx: Mapping::new(fd, Which::Transmit, tx, self.ring)?,
            fill: Mapping::new(fd, Which::Fill, fr, self.ring)?,
            comp: Mapping::new(fd, Which::Completion, cr, self.ring)?,
        })
    }

    /// Binds the registered socket; the registration becomes zero-copy or copy as a whole.
    pub(crate) fn bind_first(&self, place: Place, mode: BindMode) -> io::Result<()> {
        let mode = match mode {
            BindMode::ZeroCopy => SocketAddrXdpFlags::XDP_ZEROCOPY,
            BindMode::Copy => SocketAddrXdpFlags::XDP_COPY,
        };
        let flags = mode | SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP;
        let address = SocketAddrXdp::new(flags, place.interface_idx, place.queue);
        Ok(bind(&self.fd, &address)?)
    }

    /// Binds to the registration that `owner` uses, in the mode that it has.
    pub(crate) fn bind_shared(&self, place: Place, owner: BorrowedFd<'_>) -> io::Result<()> {
        let flags = SocketAddrXdpFlags::XDP_SHARED_UMEM;
        let address = SocketAddrXdpWithSharedUmem {
            addr: SocketAddrXdp::new(flags, place.interface_idx, place.queue),
            shared_umem_fd: owner,
        };
        Ok(bind(&self.fd, &address)?)
    }

    /// The socket, once it is bound.
    pub(crate) fn into_socket(self) -> OwnedFd {
        self.fd
    }
}

/// Asks the kernel how a socket is bound: a successful bind proves nothing.
pub(crate) fn bind_mode(socket: BorrowedFd<'_>) -> io::Result<BindMode> {
    let zero_copy = xdp_options(socket)?.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
    Ok(if zero_copy {
        BindMode::ZeroCopy
    } else {
        BindMode::Copy
    })
}
