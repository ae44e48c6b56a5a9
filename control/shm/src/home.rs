//! Whether this is still the process that opened a channel.

use std::io;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use rustix::process::{Pid, getpid};

/// Long enough for the mark; the kernel rounds up to a page.
const LEN: usize = size_of::<AtomicU32>();

/// The process that opened a channel.
///
/// Its number alone does not tell: the first process of a container may fork one that is the
/// first of another. A mark in memory that fork wipes alone does not tell either: a `vfork`
/// child runs in its parent's memory.
#[derive(Debug)]
pub(crate) struct Home {
    pid: Pid,
    mark: NonNull<AtomicU32>,
}

// SAFETY: the page is of the process, not of a thread, and this value alone owns it.
unsafe impl Send for Home {}

// SAFETY: what is shared is an atomic.
unsafe impl Sync for Home {}

impl Home {
    /// Remembers this process.
    pub(crate) fn new() -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without an address the kernel chooses one where nothing else is.
        let page = unsafe { mmap_anonymous(ptr::null_mut(), LEN, prot, MapFlags::PRIVATE) }?;
        let mark = NonNull::new(page.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let pid = getpid();
        let home = Self { pid, mark };
        // SAFETY: the page was mapped above, nobody else knows of it; advice about fork leaves
        // its contents here as they are.
        unsafe { madvise(page, LEN, Advice::LinuxWipeOnFork) }?;
        home.mark().store(1, Ordering::Relaxed);
        Ok(home)
    }

    /// Whether this is that process.
    pub(crate) fn is_here(&self) -> bool {
        self.mark().load(Ordering::Relaxed) == 1 && getpid() == self.pid
    }

    fn mark(&self) -> &AtomicU32 {
        // SAFETY: the page is mapped until `self` is dropped, starts at a page's start, and its
        // first word is only ever touched atomically; wiped it is a value too.
        unsafe { self.mark.as_ref() }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and no reference outlives `self`. It fails
        // only for an address that is no mapping.
        let _ = unsafe { munmap(self.mark.as_ptr().cast(), LEN) };
    }
}
