//! A ring's memory, mapped from its socket.

use std::io;
use std::marker::PhantomData;
use std::os::fd::BorrowedFd;
use std::ptr::{self, NonNull};

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::xdp::{XdpDesc, XdpRingFlags, XdpRingOffset};

use crate::ring::RingMemory;
use crate::sync::{AtomicU32, Ordering, UnsafeCell};

/// Which ring of a socket, by the offset that its mapping has in the socket's file.
#[derive(Clone, Copy)]
#[repr(u64)]
pub(crate) enum Which {
    Receive = libc::XDP_PGOFF_RX_RING as u64,
    Transmit = libc::XDP_PGOFF_TX_RING as u64,
    Fill = libc::XDP_UMEM_PGOFF_FILL_RING,
    Completion = libc::XDP_UMEM_PGOFF_COMPLETION_RING,
}

/// What the kernel writes into rings.
///
/// # Safety
/// Every pattern of bytes is a value.
pub(crate) unsafe trait KernelMade: Copy {}

// SAFETY: an integer.
unsafe impl KernelMade for u64 {}

// SAFETY: three integers without a gap; the type's own flags type keeps unknown bits.
unsafe impl KernelMade for XdpDesc {}

/// A mapped ring of `T`s. Every pointer lies inside the mapping, is aligned, and is valid as
/// long as this is.
pub(crate) struct Mapping<T> {
    base: NonNull<u8>,
    len: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    slots: NonNull<UnsafeCell<T>>,
    size: u32,
    owns: PhantomData<T>,
}

// SAFETY: the mapping is of the process, not of a thread, and this value alone owns it.
unsafe impl<T: Send> Send for Mapping<T> {}

impl<T: KernelMade> Mapping<T> {
    /// Maps a ring of `size` slots of an unbound socket.
    ///
    /// # Errors
    /// The system's answer, or that the kernel's layout is not one of a ring.
    pub(crate) fn new(
        socket: BorrowedFd<'_>,
        which: Which,
        layout: &XdpRingOffset,
        size: u32,
    ) -> io::Result<Self> {
        let odd = || io::Error::other("the kernel describes a ring that cannot be one");
        let offset = |of: u64| usize::try_from(of).map_err(|_| odd());
        if !size.is_power_of_two() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let slots = offset(layout.desc)?;
        let len = (size as usize)
            .checked_mul(size_of::<T>())
            .and_then(|bytes| bytes.checked_add(slots))
            .ok_or_else(odd)?;
        let flags = layout.flags.ok_or(io::ErrorKind::Unsupported)?;
        let words = [layout.producer, layout.consumer, flags];
        let fits = |of: u64| {
            of.is_multiple_of(4) && of.checked_add(4).is_some_and(|end| end <= len as u64)
        };
        if !words.into_iter().all(fits) || !slots.is_multiple_of(align_of::<T>()) {
            return Err(odd());
        }
        let words = [offset(words[0])?, offset(words[1])?, offset(words[2])?];
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let how = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: without an address the kernel chooses one where nothing else is.
        let base = unsafe { mmap(ptr::null_mut(), len, prot, how, socket, which as u64) }?;
        let base = NonNull::new(base.cast::<u8>()).ok_or_else(odd)?;
        // SAFETY: checked above to end inside the mapping.
        let at = |offset: usize| unsafe { base.add(offset) };
        Ok(Self {
            base,
            len,
            producer: at(words[0]).cast(),
            consumer: at(words[1]).cast(),
            flags: at(words[2]).cast(),
            slots: at(slots).cast(),
            size,
            owns: PhantomData,
        })
    }

    /// Whether the kernel sleeps until it is woken for this ring.
    pub(crate) fn wants_wakeup(&self) -> bool {
        // SAFETY: by the type's invariant; the word is only ever touched atomically.
        let flags = unsafe { self.flags.as_ref() }.load(Ordering::Relaxed);
        flags & XdpRingFlags::XDP_RING_NEED_WAKEUP.bits() != 0
    }
}

impl<T: KernelMade> RingMemory for Mapping<T> {
    type Item = T;

    fn size(&self) -> u32 {
        self.size
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: by the type's invariant; the word is only ever touched atomically.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: by the type's invariant; the word is only ever touched atomically.
        unsafe { self.consumer.as_ref() }
    }

    fn slot(&self, cursor: u32) -> &UnsafeCell<T> {
        let idx = cursor & (self.size - 1);
        // SAFETY: masked, so less than `size`; that many slots lie inside the mapping.
        let slot = unsafe { self.slots.add(idx as usize) };
        // SAFETY: by the type's invariant; the cell's inside is touched by the ring's rules only.
        unsafe { slot.as_ref() }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and no reference outlives `self`. It fails
        // only for an address that is no mapping.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), self.len) };
    }
}
