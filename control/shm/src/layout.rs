//! How the shared memory is laid out: a header, then slots. Every word is atomic, because the
//! other process may write any of them at any moment.
//!
//! Invariant: all patterns of bytes are values of these types.

use crate::sync::{AtomicU32, AtomicU64};

/// The first eight bytes: `xtproxy` and a zero.
pub const MAGIC: u64 = u64::from_ne_bytes(*b"xtproxy\0");

/// The version of layout and records. Ends of two versions refuse each other.
pub const VERSION: u32 = 1;

/// How many calls can be under way at once; more wait for a slot.
pub const SLOTS: usize = if cfg!(loom) { 2 } else { 48 };

/// Length of the shared memory.
pub const TOTAL_BYTES: usize = 16 * 1024;

/// Words of a request, and of a reply.
pub(crate) const RECORD_WORDS: usize = if cfg!(loom) { 1 } else { 16 };

/// A record as it is copied in or out.
pub(crate) type Words = [u64; RECORD_WORDS];

/// Header words that say what this memory is.
pub(crate) const IDENTITY_WORDS: usize = if cfg!(loom) { 1 } else { 16 };

/// The whole shared memory.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Layout {
    /// What this memory is; written once by the server, checked by the client.
    pub(crate) identity: [AtomicU32; IDENTITY_WORDS],
    /// Which slots were posted, and whether the server rests or has closed.
    pub(crate) posted: AtomicU64,
    #[cfg(not(loom))]
    reserved: [AtomicU64; 119],
    /// Where the calls are.
    pub(crate) slots: [Slot; SLOTS],
}

/// One call at a time.
#[repr(C)]
#[derive(Debug)]
pub(crate) struct Slot {
    /// Whose turn it is; the futex of the client's thread.
    pub(crate) state: AtomicU32,
    #[cfg(not(loom))]
    reserved: [AtomicU32; 15],
    /// Written by the client before it posts.
    pub(crate) request: [AtomicU64; RECORD_WORDS],
    /// Written by the server before it answers.
    pub(crate) reply: [AtomicU64; RECORD_WORDS],
}

#[cfg(not(loom))]
const _: () = {
    assert!(size_of::<Layout>() == TOTAL_BYTES);
    assert!(std::mem::offset_of!(Layout, posted) == 64);
    assert!(std::mem::offset_of!(Layout, slots) == 1024);
    assert!(size_of::<Slot>() == 320);
    assert!(std::mem::offset_of!(Slot, request) == 64);
    assert!(std::mem::offset_of!(Slot, reply) == 192);
};

#[cfg(not(loom))]
mod identity {
    use std::mem::offset_of;

    use super::{IDENTITY_WORDS, Layout, MAGIC, RECORD_WORDS, SLOTS, Slot, TOTAL_BYTES, VERSION};
    use crate::error::MapError;
    use crate::sync::Ordering;

    const RECORD_BYTES: usize = RECORD_WORDS * 8;

    /// What the header of this version says.
    const fn identity() -> [u32; IDENTITY_WORDS] {
        let magic = MAGIC.to_ne_bytes();
        let mut words = [0; IDENTITY_WORDS];
        words[0] = u32::from_ne_bytes([magic[0], magic[1], magic[2], magic[3]]);
        words[1] = u32::from_ne_bytes([magic[4], magic[5], magic[6], magic[7]]);
        words[2] = VERSION;
        words[3] = TOTAL_BYTES as u32;
        words[4] = offset_of!(Layout, slots) as u32;
        words[5] = SLOTS as u32;
        words[6] = size_of::<Slot>() as u32;
        words[7] = offset_of!(Slot, request) as u32;
        words[8] = RECORD_BYTES as u32;
        words[9] = offset_of!(Slot, reply) as u32;
        words[10] = RECORD_BYTES as u32;
        words
    }

    impl Layout {
        /// Writes the header, before anybody else has the memory.
        pub(crate) fn sign(&self) {
            for (word, value) in self.identity.iter().zip(identity()) {
                word.store(value, Ordering::Relaxed);
            }
        }

        /// Compares the header with this version's.
        pub(crate) fn check(&self) -> Result<(), MapError> {
            let own = identity();
            let mut found = [0; IDENTITY_WORDS];
            for (value, word) in found.iter_mut().zip(&self.identity) {
                *value = word.load(Ordering::Relaxed);
            }
            if found[..2] != own[..2] {
                return Err(MapError::Magic);
            }
            if found[2] != VERSION {
                return Err(MapError::Version { found: found[2] });
            }
            if found != own {
                return Err(MapError::Sizes);
            }
            Ok(())
        }
    }
}
