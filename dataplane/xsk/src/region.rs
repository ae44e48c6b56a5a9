//! A worker's packet memory and the ledger of its frames.

use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use xsk_rs::config::{FrameSize, QueueSize, UmemConfig};
use xsk_rs::{FrameDesc, Umem};

use crate::error::{Error, system_error};
use crate::socket::Place;

/// Bytes of a chunk. 2048 would do for most drivers, but igb corrupts frames over 1024
/// bytes in zero-copy mode with it, and a page per frame is what every driver can take.
pub const CHUNK_BYTES: u32 = 4096;
/// What the kernel keeps free in front of a received frame (`XDP_PACKET_HEADROOM`).
const KERNEL_HEADROOM: u32 = 256;
/// The largest frame that a chunk can hold.
pub const MAX_FRAME_BYTES: u32 = CHUNK_BYTES - KERNEL_HEADROOM;

/// The right to touch one chunk, with a frame in it. Neither `Clone` nor `Copy`: rings
/// take it by value.
#[derive(Debug)]
#[must_use = "a frame that is lost is a chunk that never comes back"]
pub struct Frame(pub(crate) FrameDesc);

impl Frame {
    /// Bytes of the frame.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lengths().data()
    }

    /// Where in the region the frame begins.
    #[must_use]
    pub fn offset(&self) -> usize {
        self.0.addr()
    }

    /// Whether the frame has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where the chunks of a region are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ledger {
    /// All.
    pub total: u32,
    /// In nobody's hands.
    pub free: u32,
    /// With the kernel, to receive into or received and not yet taken.
    pub filled: u32,
    /// With the kernel, to be sent or being sent.
    pub sending: u32,
}

impl Ledger {
    /// Whether every chunk is accounted for. True whenever no batch is being worked on.
    #[must_use]
    pub const fn is_conserved(&self) -> bool {
        self.total == self.free + self.filled + self.sending
    }
}

/// The memory of a region and where frames begin in its chunks.
#[derive(Clone)]
pub(crate) struct Chunks {
    pub(crate) umem: Umem,
    /// The descriptor of each chunk, in order. `xsk-rs` makes descriptors once only, so what
    /// comes out of rings of our own is told by these.
    starts: Arc<[FrameDesc]>,
}

impl Chunks {
    /// The descriptor of the chunk that an offset lies in.
    pub(crate) fn at(&self, offset: u64) -> Option<FrameDesc> {
        let idx = usize::try_from(offset / u64::from(CHUNK_BYTES)).ok()?;
        self.starts.get(idx).copied()
    }

    /// The descriptor of a received frame of `len` bytes at an offset. A frame that begins
    /// later in its chunk than frames do (a driver's time stamp may precede it) is moved. One
    /// that begins earlier (a steering program has put something in front) cannot be reached
    /// through `xsk-rs`; it comes out empty, and so does one that ends outside of its chunk.
    ///
    /// # Safety
    /// The chunk is the caller's alone.
    pub(crate) unsafe fn received(&self, offset: u64, len: u32) -> Option<FrameDesc> {
        let mut desc = self.at(offset)?;
        let shift = usize::try_from(offset).ok()?.checked_sub(desc.addr());
        // SAFETY: the descriptor is of this memory, and the chunk the caller's alone.
        let mut data = unsafe { self.umem.data_mut(&mut desc) };
        data.cursor().set_pos(MAX_FRAME_BYTES as usize);
        let whole = data.contents_mut();
        let len = match shift {
            Some(0) if len <= MAX_FRAME_BYTES => len as usize,
            Some(shift) if shift + len as usize <= whole.len() => {
                whole.copy_within(shift..shift + len as usize, 0);
                len as usize
            }
            Some(_) | None => 0,
        };
        data.cursor().set_pos(len);
        Some(desc)
    }
}

/// Packet memory of one worker, shared by all of its sockets: a frame received by one
/// leaves by another from the chunk that it came in.
pub struct Region {
    pub(crate) chunks: Chunks,
    pub(crate) free: Vec<FrameDesc>,
    /// Sockets of the second registration, if there is one, and where they are bound.
    pub(crate) second: Vec<(Place, Weak<OwnedFd>)>,
    /// Where the memory is, for the kernel.
    address: u64,
    total: u32,
}

impl Region {
    /// Registers memory for `frames` frames, for rings of `ring` entries (a power of two).
    ///
    /// # Errors
    /// [`Error::Region`] if the kernel refuses.
    pub fn new(frames: NonZeroU32, ring: u32) -> Result<Self, Error> {
        let error = |source| Error::Region {
            frames: frames.get(),
            source,
        };
        let other = |text: String| error(std::io::Error::other(text));
        let ring = QueueSize::new(ring).map_err(|e| other(e.to_string()))?;
        let config = UmemConfig::builder()
            .frame_size(FrameSize::new(CHUNK_BYTES).map_err(|e| other(e.to_string()))?)
            .fill_queue_size(ring)
            .comp_queue_size(ring)
            .build()
            .map_err(|e| other(e.to_string()))?;
        let (umem, free) = Umem::new(config, frames, false).map_err(|e| error(system_error(&e)))?;
        let address = address(&umem, &free);
        Ok(Self {
            chunks: Chunks {
                umem,
                starts: free.as_slice().into(),
            },
            free,
            second: Vec::new(),
            address,
            total: frames.get(),
        })
    }

    /// The bytes of a frame.
    pub fn bytes<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        let len = frame.len();
        // SAFETY: a `Frame` is made by this crate only, from descriptors of its one region,
        // is in no ring while it exists, and is borrowed mutably: nothing else touches it.
        let mut data = unsafe { self.chunks.umem.data_mut(&mut frame.0) };
        let start = data.contents_mut().as_mut_ptr();
        // SAFETY: the same `len` bytes that `contents_mut` has just handed out, which live as
        // long as the region; the borrow of `frame` keeps them exclusive for `'a`.
        unsafe { std::slice::from_raw_parts_mut(start, len) }
    }

    /// Cuts a frame; longer than it is it does not get.
    pub fn shorten(&self, frame: &mut Frame, len: usize) {
        self.set_len(frame, len.min(frame.len()));
    }

    /// Makes a frame longer, as far as its chunk reaches; shorter it does not get. The new bytes
    /// are what an earlier frame has left.
    pub fn lengthen(&self, frame: &mut Frame, len: usize) {
        self.set_len(frame, len.max(frame.len()));
    }

    /// Sets a frame's length, as far as its chunk reaches.
    pub(crate) fn set_len(&self, frame: &mut Frame, len: usize) {
        // SAFETY: as in `bytes`.
        let mut data = unsafe { self.chunks.umem.data_mut(&mut frame.0) };
        data.cursor().set_pos(len);
    }

    /// Takes a free chunk to write a frame of `len` bytes into, [`MAX_FRAME_BYTES`] at most.
    /// The bytes are what an earlier frame has left.
    pub fn take(&mut self, len: usize) -> Option<Frame> {
        let mut frame = Frame(self.free.pop()?);
        self.set_len(&mut frame, len);
        Some(frame)
    }

    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    /// The address and the length of the memory, for the kernel.
    pub(crate) fn extent(&self) -> (u64, u64) {
        let len = u64::from(self.total) * u64::from(CHUNK_BYTES);
        (self.address, len)
    }

    /// Takes a frame back.
    pub fn put(&mut self, frame: Frame) {
        self.free.push(frame.0);
    }

    /// The ledger's part that the region knows; the lanes know the rest.
    #[must_use]
    pub fn ledger<'a>(&self, lanes: impl IntoIterator<Item = &'a crate::Lane>) -> Ledger {
        let start = Ledger {
            total: self.total,
            free: self.free.len() as u32,
            ..Ledger::default()
        };
        lanes.into_iter().fold(start, |sum, lane| Ledger {
            filled: sum.filled + lane.filled(),
            sending: sum.sending + lane.sending(),
            ..sum
        })
    }
}

/// Where new memory begins, which `xsk-rs` does not say, from the first of its descriptors.
fn address(umem: &Umem, free: &[FrameDesc]) -> u64 {
    let Some(mut first) = free.first().copied() else {
        return 0;
    };
    let offset = first.addr();
    // SAFETY: the descriptor is of this memory, of which no ring has a chunk yet.
    let mut data = unsafe { umem.data_mut(&mut first) };
    (data.contents_mut().as_mut_ptr().addr() - offset) as u64
}
