//! Whether this process owns its memory.
//!
//! A `vfork` child runs in its parent's: what it opened would stay in the books of the parent,
//! which does not have those descriptors.

use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous};

/// A page that fork wipes, with the number of the process that it belongs to.
static MARK: AtomicPtr<AtomicU32> = AtomicPtr::new(ptr::null_mut());

/// Long enough for the mark; the kernel rounds up to a page.
const LEN: usize = size_of::<AtomicU32>();

/// Begins to watch. Without the page every process is taken for an owner.
pub fn start() {
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: without an address the kernel chooses one where nothing else is.
    let page = unsafe { mmap_anonymous(ptr::null_mut(), LEN, prot, MapFlags::PRIVATE) };
    let Ok(page) = page else { return };
    // SAFETY: the page was mapped above and nobody else knows of it.
    if unsafe { madvise(page, LEN, Advice::LinuxWipeOnFork) }.is_err() {
        return;
    }
    MARK.store(page.cast(), Ordering::Release);
    adopt();
    // SAFETY: the handler does what a child of fork may do: it asks for its number and stores it.
    // Where it cannot be installed, the first call does the same.
    let _ = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
}

/// Whether the memory is lent by another process.
pub fn is_borrowed() -> bool {
    match mark().map_or(0, |mark| mark.load(Ordering::Relaxed)) {
        // A child that was made without the C library's knowledge.
        0 => {
            adopt();
            false
        }
        owner => owner != number(),
    }
}

extern "C" fn in_child() {
    adopt();
}

fn adopt() {
    if let Some(mark) = mark() {
        mark.store(number(), Ordering::Relaxed);
    }
}

fn mark() -> Option<&'static AtomicU32> {
    let mark = MARK.load(Ordering::Acquire);
    // SAFETY: null, or the start of a page that is never unmapped and only ever touched
    // atomically; wiped it is a value too.
    unsafe { mark.as_ref() }
}

fn number() -> u32 {
    rustix::process::getpid()
        .as_raw_nonzero()
        .get()
        .unsigned_abs()
}
