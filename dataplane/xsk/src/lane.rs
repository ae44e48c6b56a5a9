//! One socket on one queue of one interface, with its four rings.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::{io, ptr};

use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue};

use crate::error::{Error, system_error};
use crate::region::{Frame, Region};

/// Descriptors moved between us and a ring at once.
const CHUNK: usize = 64;
/// `XDP_MAX_TX_SKB_BUDGET`: how many frames one system call sends in copy mode, 32 if not
/// raised. Newer than libc's list.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// How a socket is bound, as the kernel says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BindMode {
    /// The driver reads and writes the region itself.
    ZeroCopy,
    /// The kernel copies.
    Copy,
}

impl BindMode {
    /// The name that people and JSON see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zero-copy",
            Self::Copy => "copy",
        }
    }
}

/// What to open.
#[derive(Clone, Copy, Debug)]
pub struct LaneConfig<'a> {
    /// The interface's name, in this thread's network namespace.
    pub interface: &'a str,
    /// The queue.
    pub queue: u32,
    /// Entries of each ring, a power of two.
    pub ring: u32,
    /// How many chunks to keep with the kernel for receiving, at most `ring`.
    pub fill: u32,
}

/// Counters that the kernel keeps of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RingCounts {
    /// Frames dropped because they fitted no chunk or for another reason.
    pub rx_dropped: u64,
    /// Frames dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Frames that found no chunk to be received into.
    pub rx_fill_empty: u64,
    /// Descriptors that the kernel refused; anything but 0 is a defect.
    pub invalid_descs: u64,
}

/// Whether this kernel has AF_XDP sockets.
///
/// # Errors
/// [`Error::NoAfXdp`] if not.
pub fn kernel_has_af_xdp() -> Result<(), Error> {
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SocketType, socket};
    match socket(AddressFamily::XDP, SocketType::RAW, None) {
        Err(Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT) => Err(Error::NoAfXdp),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A bound socket.
pub struct Lane {
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    comp: CompQueue,
    mode: BindMode,
    ring: u32,
    fill_target: u32,
    filled: u32,
    sending: u32,
    staged: Vec<FrameDesc>,
    scratch: [FrameDesc; CHUNK],
}

impl Lane {
    /// Binds a socket to a queue and fills its fill ring from the region.
    ///
    /// # Errors
    /// [`Error`] names the interface and the queue.
    pub fn open(region: &mut Region, config: &LaneConfig<'_>) -> Result<Self, Error> {
        let LaneConfig {
            interface,
            queue,
            ring,
            fill,
        } = *config;
        let bind_error = |source: io::Error| match source.raw_os_error() {
            Some(libc::EBUSY) => Error::Busy {
                interface: interface.to_owned(),
                queue,
            },
            Some(libc::EAFNOSUPPORT) => Error::NoAfXdp,
            _ => Error::Bind {
                interface: interface.to_owned(),
                queue,
                source,
            },
        };
        let invalid = |e: &dyn std::error::Error| bind_error(io::Error::other(e.to_string()));
        let name: Interface = interface.parse().map_err(|e| invalid(&e))?;
        let size = QueueSize::new(ring).map_err(|e| invalid(&e))?;
        let socket = SocketConfig::builder()
            .rx_queue_size(size)
            .tx_queue_size(size)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        // SAFETY: the contract is that no other socket uses this queue with this UMEM through
        // rings of its own; the kernel refuses a second bind to a queue with EBUSY, and each
        // (interface, queue) here makes its own fill and completion ring.
        let opened = unsafe { Socket::new(socket, &region.umem, &name, queue) };
        let (tx, rx, rings) = opened.map_err(|e| bind_error(system_error(&e)))?;
        let (fill_queue, comp) = rings.ok_or_else(|| {
            bind_error(io::Error::other("the queue is open already in this region"))
        })?;
        let fd = borrow_fd(&rx);
        raise_send_budget(fd, ring);
        let mut lane = Self {
            mode: bind_mode(fd).map_err(bind_error)?,
            rx,
            tx,
            fill: fill_queue,
            comp,
            ring,
            fill_target: fill.min(ring),
            filled: 0,
            sending: 0,
            staged: Vec::with_capacity(ring as usize),
            scratch: [FrameDesc::default(); CHUNK],
        };
        lane.refill(region);
        Ok(lane)
    }

    /// How the socket is bound.
    #[must_use]
    pub fn mode(&self) -> BindMode {
        self.mode
    }

    /// Chunks with the kernel for receiving.
    #[must_use]
    pub fn filled(&self) -> u32 {
        self.filled
    }

    /// Chunks staged to be sent or with the kernel for sending.
    #[must_use]
    pub fn sending(&self) -> u32 {
        self.sending
    }

    /// Takes received frames, up to the room in `into`, which is emptied first.
    pub fn take(&mut self, into: &mut Vec<Frame>, most: usize) -> usize {
        into.clear();
        let most = most.min(CHUNK).min(into.capacity());
        // SAFETY: the descriptors received are those of chunks that this lane put into its fill
        // ring, so of the region; the kernel has given them up by putting them here.
        let taken = unsafe { self.rx.consume(&mut self.scratch[..most]) };
        into.extend(self.scratch[..taken].iter().map(|desc| Frame(*desc)));
        self.filled -= taken as u32;
        taken
    }

    /// Stages a frame to be sent; gives it back if the ring has no room for more.
    ///
    /// # Errors
    /// The frame itself.
    pub fn put(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.sending >= self.ring {
            return Err(frame);
        }
        self.staged.push(frame.0);
        self.sending += 1;
        Ok(())
    }

    /// Publishes what is staged and wakes the kernel if it sleeps. Whatever finds no room in
    /// the ring stays staged for the next call.
    ///
    /// # Errors
    /// The system's answer to the wake-up, if it is not one of those that pass.
    pub fn publish(&mut self) -> io::Result<()> {
        // SAFETY: staged descriptors were `Frame`s of this region, given up by value.
        let sent = unsafe { self.tx.produce(&self.staged) };
        self.staged.drain(..sent);
        self.kick()
    }

    /// Wakes the kernel as long as it asks for it and goes on sending. One call sends a
    /// limited number of frames, so one is not enough; a ring that makes no progress is left
    /// for the next round.
    fn kick(&mut self) -> io::Result<()> {
        let mut left = self.unsent();
        while left > 0 && self.tx.needs_wakeup() {
            self.tx.wakeup()?;
            let now = self.unsent();
            if now >= left {
                break;
            }
            left = now;
        }
        Ok(())
    }

    /// Descriptors that the kernel has not taken from the transmit ring.
    fn unsent(&mut self) -> u32 {
        self.ring - self.tx.nb_free_exact()
    }

    /// Whether frames wait for the kernel to send them.
    pub fn has_unsent(&mut self) -> bool {
        !self.staged.is_empty() || self.unsent() > 0
    }

    /// Takes sent frames back into the region.
    pub fn reap(&mut self, region: &mut Region) {
        while self.sending > 0 {
            // SAFETY: completed descriptors are those that `publish` produced.
            let done = unsafe { self.comp.consume(&mut self.scratch) };
            region.free.extend_from_slice(&self.scratch[..done]);
            self.sending -= done as u32;
            if done < CHUNK {
                break;
            }
        }
    }

    /// Keeps the fill ring at its target from the region's free chunks.
    pub fn refill(&mut self, region: &mut Region) {
        let want = (self.fill_target - self.filled) as usize;
        let from = region.free.len().saturating_sub(want);
        // SAFETY: free descriptors are in no ring and held by no `Frame`.
        let given = unsafe { self.fill.produce(&region.free[from..]) };
        if given > 0 {
            // The ring takes from the front of the slice; or none, if it lacks room for all.
            region.free.drain(from..from + given);
            self.filled += given as u32;
        }
    }

    /// What the kernel has counted.
    ///
    /// # Errors
    /// The system's answer.
    pub fn counts(&self) -> io::Result<RingCounts> {
        let kernel = self.rx.fd().xdp_statistics()?;
        Ok(RingCounts {
            rx_dropped: kernel.rx_dropped(),
            rx_ring_full: kernel.rx_ring_full(),
            rx_fill_empty: kernel.rx_fill_ring_empty_descs(),
            invalid_descs: kernel.rx_invalid_descs() + kernel.tx_invalid_descs(),
        })
    }
}

impl AsFd for Lane {
    fn as_fd(&self) -> BorrowedFd<'_> {
        borrow_fd(&self.rx)
    }
}

fn borrow_fd(rx: &RxQueue) -> BorrowedFd<'_> {
    // SAFETY: the queue owns the socket, which stays open as long as the queue is borrowed.
    unsafe { BorrowedFd::borrow_raw(rx.fd().as_raw_fd()) }
}

/// Asks the kernel how the socket is bound: a successful bind proves nothing.
fn bind_mode(fd: BorrowedFd<'_>) -> io::Result<BindMode> {
    use rustix::net::sockopt::xdp_options;
    use rustix::net::xdp::XdpOptionsFlags;
    let zero_copy = xdp_options(fd)?.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
    Ok(if zero_copy {
        BindMode::ZeroCopy
    } else {
        BindMode::Copy
    })
}

/// Lets one system call send a whole ring. Kernels before 6.17 do not know the option and
/// need more calls: that costs speed, not frames, so the answer does not matter.
fn raise_send_budget(fd: BorrowedFd<'_>, ring: u32) {
    // SAFETY: the descriptor is open and the option takes one u32, which outlives the call.
    let _ = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_XDP,
            XDP_MAX_TX_SKB_BUDGET,
            ptr::from_ref(&ring).cast(),
            size_of::<u32>() as libc::socklen_t,
        )
    };
}
