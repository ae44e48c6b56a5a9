//! One socket on one queue of one interface, with its four rings.

use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{io, ptr};

use rustix::net::sockopt::xdp_statistics;
use xsk_rs::FrameDesc;

use crate::error::Error;
use crate::first::FirstRings;
use crate::region::{Frame, Region};
use crate::second::SecondRings;

/// Descriptors moved between us and a ring at once.
pub(crate) const CHUNK: usize = 64;
/// `XDP_MAX_TX_SKB_BUDGET`: how many frames one system call sends in copy mode, 32 if not
/// raised. Newer than libc's list.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// Entries of each ring of a trial socket.
const PROBE_RING: u32 = 64;
/// How long a queue may still be the last socket's after that was closed.
const BUSY_FOR: Duration = Duration::from_secs(2);
const BUSY_STEP: Duration = Duration::from_millis(20);

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
    /// How to bind: this way or not at all.
    pub mode: BindMode,
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

/// Whether an interface's driver has zero-copy, found by trying on a queue that nobody uses. A
/// driver may take its link down for a moment when it is tried.
#[must_use]
pub fn supports_zero_copy(interface: &str, queue: u32) -> bool {
    let config = LaneConfig {
        interface,
        queue,
        ring: PROBE_RING,
        fill: PROBE_RING,
        mode: BindMode::ZeroCopy,
    };
    let frames = NonZeroU32::MIN.saturating_add(PROBE_RING);
    Region::new(frames, PROBE_RING)
        .and_then(|mut region| Lane::open_now(&mut region, &config))
        .is_ok()
}

/// The rings of one of a region's two registrations.
#[expect(
    clippy::large_enum_variant,
    reason = "there is one a socket, and a box would cost a load a batch"
)]
enum Rings {
    First(FirstRings),
    Second(SecondRings),
}

/// Calls one method of either kind of rings: a branch a batch.
macro_rules! on {
    ($rings:expr, $method:ident $($argument:expr),*) => {
        match $rings {
            Rings::First(rings) => rings.$method($($argument),*),
            Rings::Second(rings) => rings.$method($($argument),*),
        }
    };
}

/// A bound socket. Its queue is free for others some time after this is dropped; that of a
/// region's first lane in copy mode only after the region is.
pub struct Lane {
    rings: Rings,
    mode: BindMode,
    ring: u32,
    fill_target: u32,
    filled: u32,
    sending: u32,
    staged: Vec<FrameDesc>,
}

impl Lane {
    /// Binds a socket to a queue and fills its fill ring from the region. Waits a little for a
    /// queue that another socket has: the kernel frees it some time after that was closed.
    ///
    /// # Errors
    /// [`Error`] names the interface and the queue.
    pub fn open(region: &mut Region, config: &LaneConfig<'_>) -> Result<Self, Error> {
        let end = Instant::now() + BUSY_FOR;
        loop {
            match Self::open_now(region, config) {
                Err(Error::Busy { .. }) if Instant::now() < end => sleep(BUSY_STEP),
                opened => return opened,
            }
        }
    }

    pub(crate) fn open_now(region: &mut Region, config: &LaneConfig<'_>) -> Result<Self, Error> {
        match config.mode {
            BindMode::Copy => {
                let rings = FirstRings::open(region, config)?;
                Ok(Self::with(Rings::First(rings), 0, region, config))
            }
            BindMode::ZeroCopy => Self::open_second(region, config),
        }
    }

    /// Opens a socket of the second registration, in the mode that `config` says.
    pub(crate) fn open_second(region: &mut Region, config: &LaneConfig<'_>) -> Result<Self, Error> {
        let (rings, filled) = SecondRings::open(region, config)?;
        Ok(Self::with(Rings::Second(rings), filled, region, config))
    }

    fn with(rings: Rings, filled: usize, region: &mut Region, config: &LaneConfig<'_>) -> Self {
        let mut lane = Self {
            rings,
            mode: config.mode,
            ring: config.ring,
            fill_target: config.fill.min(config.ring),
            filled: filled as u32,
            sending: 0,
            staged: Vec::with_capacity(config.ring as usize),
        };
        raise_send_budget(lane.as_fd(), config.ring);
        lane.refill(region);
        lane
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
        let taken = on!(&mut self.rings, take into, most);
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
        on!(&mut self.rings, send &mut self.staged);
        self.kick()
    }

    /// Wakes the kernel as long as it asks for it and goes on sending. One call sends a
    /// limited number of frames, so one is not enough; a ring that makes no progress is left
    /// for the next round.
    fn kick(&mut self) -> io::Result<()> {
        let mut left = self.unsent();
        while left > 0 && on!(&self.rings, wants_wakeup) {
            on!(&self.rings, wake)?;
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
        on!(&mut self.rings, unsent)
    }

    /// Whether frames wait for the kernel to send them.
    pub fn has_unsent(&mut self) -> bool {
        !self.staged.is_empty() || self.unsent() > 0
    }

    /// Takes sent frames back into the region.
    pub fn reap(&mut self, region: &mut Region) {
        while self.sending > 0 {
            let done = on!(&mut self.rings, reap &mut region.free);
            self.sending -= done as u32;
            if done < CHUNK {
                break;
            }
        }
    }

    /// Keeps the fill ring at its target from the region's free chunks.
    pub fn refill(&mut self, region: &mut Region) {
        let want = (self.fill_target - self.filled) as usize;
        let given = on!(&mut self.rings, fill &mut region.free, want);
        self.filled += given as u32;
    }

    /// What the kernel has counted.
    ///
    /// # Errors
    /// The system's answer.
    pub fn counts(&self) -> io::Result<RingCounts> {
        let kernel = xdp_statistics(self)?;
        Ok(RingCounts {
            rx_dropped: kernel.rx_dropped,
            rx_ring_full: kernel.rx_ring_full.unwrap_or(0),
            rx_fill_empty: kernel.rx_fill_ring_empty_descs.unwrap_or(0),
            invalid_descs: kernel.rx_invalid_descs + kernel.tx_invalid_descs,
        })
    }
}

impl AsFd for Lane {
    fn as_fd(&self) -> BorrowedFd<'_> {
        on!(&self.rings, fd)
    }
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
