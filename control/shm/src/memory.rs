//! The memory itself: made and sealed by the server, checked and mapped by the client.
//!
//! Invariant: what is mapped here has all the bytes of the layout for as long as it is mapped,
//! because the file behind it is sealed against every change of size before anybody else has it.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::{self, NonNull};

use rustix::fs::{
    MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create,
};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::error::MapError;
use crate::layout::{Layout, TOTAL_BYTES};

/// What keeps the size as it is.
const SIZE_SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);

/// A mapping of the layout.
#[derive(Debug)]
pub(crate) struct Memory {
    base: NonNull<Layout>,
}

// SAFETY: the mapping is of the process, not of a thread, and this value alone owns it.
unsafe impl Send for Memory {}

// SAFETY: it gives out `&Layout` only, and a layout consists of atomics.
unsafe impl Sync for Memory {}

impl Memory {
    /// Makes a new one, and the file to hand over.
    pub(crate) fn create() -> io::Result<(Self, OwnedFd)> {
        let file = create_file()?;
        ftruncate(&file, TOTAL_BYTES as u64)?;
        fcntl_add_seals(&file, SIZE_SEALS | SealFlags::SEAL)?;
        let memory = Self::map(file.as_fd())?;
        memory.sign();
        Ok((memory, file))
    }

    /// Maps one that was handed over, if it is what it has to be.
    pub(crate) fn open(file: BorrowedFd<'_>) -> Result<Self, MapError> {
        let seals = match fcntl_get_seals(file) {
            Ok(seals) => seals,
            Err(Errno::INVAL) => return Err(MapError::Unsealed),
            Err(errno) => return Err(errno.into()),
        };
        if !seals.contains(SIZE_SEALS) {
            return Err(MapError::Unsealed);
        }
        // After the look at the seals, so it stays what it is.
        let found = u64::try_from(fstat(file)?.st_size).unwrap_or(0);
        if found != TOTAL_BYTES as u64 {
            return Err(MapError::Length { found });
        }
        let memory = Self::map(file)?;
        memory.check()?;
        Ok(memory)
    }

    /// Maps a file whose size is `TOTAL_BYTES` and sealed.
    fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        let how = MapFlags::SHARED | MapFlags::POPULATE;
        // SAFETY: without an address the kernel chooses one where nothing else is.
        let base = unsafe { mmap(ptr::null_mut(), TOTAL_BYTES, prot, how, file, 0) }?;
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        Ok(Self { base })
    }
}

/// A file in memory that nobody can run, where the kernel knows of that (Linux 6.3).
fn create_file() -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match memfd_create(c"xtproxy-channel", flags | MemfdFlags::NOEXEC_SEAL) {
        Err(Errno::INVAL) => Ok(memfd_create(c"xtproxy-channel", flags)?),
        made => Ok(made?),
    }
}

impl Deref for Memory {
    type Target = Layout;

    fn deref(&self) -> &Layout {
        // SAFETY: mapped with the layout's size, at a page's start, until `self` is dropped; the
        // size is sealed, so no access can fault; every pattern of bytes is a layout, and all of
        // it is atomics, so that writes from elsewhere are no races.
        unsafe { self.base.as_ref() }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped by `map` with this length, and no reference outlives `self`. It fails
        // only for an address that is no mapping.
        let _ = unsafe { munmap(self.base.as_ptr().cast(), TOTAL_BYTES) };
    }
}
