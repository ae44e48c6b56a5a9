//! A socket of the first registration, which `xsk-rs` keeps: copy mode.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use xsk_rs::config::{BindFlags, Interface, LibxdpFlags, QueueSize, SocketConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue};

use crate::error::{Error, bind_error, system_error};
use crate::lane::{CHUNK, LaneConfig};
use crate::region::{Frame, Region};

/// The rings. Descriptors go in and out as the rights that they are: what a method takes is
/// drained from where it stood, what it gives is nowhere else.
pub(crate) struct FirstRings {
    rx: RxQueue,
    tx: TxQueue,
    fill: FillQueue,
    comp: CompQueue,
    ring: u32,
    scratch: [FrameDesc; CHUNK],
}

impl FirstRings {
    pub(crate) fn open(region: &Region, config: &LaneConfig<'_>) -> Result<Self, Error> {
        let invalid =
            |e: &dyn std::error::Error| bind_error(config, io::Error::other(e.to_string()));
        let name: Interface = config.interface.parse().map_err(|e| invalid(&e))?;
        let size = QueueSize::new(config.ring).map_err(|e| invalid(&e))?;
        let socket = SocketConfig::builder()
            .rx_queue_size(size)
            .tx_queue_size(size)
            .libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD)
            .bind_flags(BindFlags::XDP_COPY | BindFlags::XDP_USE_NEED_WAKEUP)
            .build();
        // SAFETY: the contract is that no other socket uses this queue with this UMEM through
        // rings of its own; the kernel refuses a second bind to a queue with EBUSY, and each
        // (interface, queue) here makes its own fill and completion ring.
        let opened = unsafe { Socket::new(socket, &region.chunks.umem, &name, config.queue) };
        let (tx, rx, rings) = opened.map_err(|e| bind_error(config, system_error(&e)))?;
        // `xsk-rs` would let two sockets share the rings of one queue.
        let (fill, comp) =
            rings.ok_or_else(|| bind_error(config, io::Error::from_raw_os_error(libc::EBUSY)))?;
        Ok(Self {
            rx,
            tx,
            fill,
            comp,
            ring: config.ring,
            scratch: [FrameDesc::default(); CHUNK],
        })
    }

    pub(crate) fn take(&mut self, into: &mut Vec<Frame>, most: usize) -> usize {
        // SAFETY: the descriptors received are those of chunks that `fill` put into the fill
        // ring, so of the region; the kernel has given them up by putting them here.
        let taken = unsafe { self.rx.consume(&mut self.scratch[..most]) };
        into.extend(self.scratch[..taken].iter().map(|desc| Frame(*desc)));
        taken
    }

    pub(crate) fn send(&mut self, staged: &mut Vec<FrameDesc>) {
        // SAFETY: staged descriptors were `Frame`s of this region, given up by value.
        let sent = unsafe { self.tx.produce(staged) };
        staged.drain(..sent);
    }

    pub(crate) fn reap(&mut self, free: &mut Vec<FrameDesc>) -> usize {
        // SAFETY: completed descriptors are those that `send` produced.
        let done = unsafe { self.comp.consume(&mut self.scratch) };
        free.extend_from_slice(&self.scratch[..done]);
        done
    }

    pub(crate) fn fill(&mut self, free: &mut Vec<FrameDesc>, want: usize) -> usize {
        let from = free.len().saturating_sub(want);
        // SAFETY: free descriptors are in no ring and held by no `Frame`.
        let given = unsafe { self.fill.produce(&free[from..]) };
        // The ring takes from the front of the slice; or none, if it lacks room for all.
        free.drain(from..from + given);
        given
    }

    pub(crate) fn unsent(&mut self) -> u32 {
        self.ring - self.tx.nb_free_exact()
    }

    pub(crate) fn wants_wakeup(&self) -> bool {
        self.tx.needs_wakeup()
    }

    pub(crate) fn wake(&self) -> io::Result<()> {
        self.tx.wakeup()
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the queue owns the socket, which stays open as long as the queue is borrowed.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }
}
