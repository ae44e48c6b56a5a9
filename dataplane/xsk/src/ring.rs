//! The two ends of a ring that is shared with the kernel.
//!
//! Invariants: cursors run freely and wrap, their distance is what lies in the ring; the slots
//! from the consumer's cursor up to the producer's are the consumer's, all others the
//! producer's; an end stores its own cursor once a batch, with release, after its last touch of
//! the slots that it gives away, and loads the other's with acquire before its first touch of
//! the slots that it gets.
//! Never here: system calls, what a slot means.

use crate::sync::{AtomicU32, Ordering, UnsafeCell};

/// Memory that holds a ring: mapped from a socket, or plain in tests.
pub(crate) trait RingMemory {
    /// What a slot holds.
    type Item: Copy;
    /// How many slots there are, a power of two.
    fn size(&self) -> u32;
    /// The producer's cursor.
    fn producer(&self) -> &AtomicU32;
    /// The consumer's cursor.
    fn consumer(&self) -> &AtomicU32;
    /// The slot at a free-running cursor, which this masks.
    fn slot(&self, cursor: u32) -> &UnsafeCell<Self::Item>;
}

/// The end that puts in.
pub(crate) struct Producer<M> {
    memory: M,
    cursor: u32,
    /// The consumer's cursor when it was last looked at.
    peer: u32,
}

impl<M: RingMemory> Producer<M> {
    /// Takes the producer's end of a ring, wherever its cursors stand.
    ///
    /// # Safety
    /// This is the only producer of that ring.
    pub(crate) unsafe fn new(memory: M) -> Self {
        Self {
            cursor: memory.producer().load(Ordering::Relaxed),
            peer: memory.consumer().load(Ordering::Acquire),
            memory,
        }
    }

    /// The memory that the ring is in.
    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Puts items in until they or the room end, and says how many went in.
    pub(crate) fn put(&mut self, items: impl ExactSizeIterator<Item = M::Item>) -> usize {
        let wanted = items.len().min(self.memory.size() as usize) as u32;
        if self.room() < wanted {
            self.look();
        }
        let room = self.room().min(wanted);
        let mut end = self.cursor;
        for item in items.take(room as usize) {
            // SAFETY: `end` is less than the ring's size in front of a consumer's cursor that
            // was loaded with acquire, so the slot is the producer's, and this is the only one.
            self.memory
                .slot(end)
                .with_mut(|slot| unsafe { slot.write(item) });
            end = end.wrapping_add(1);
        }
        let put = end.wrapping_sub(self.cursor);
        if put > 0 {
            self.cursor = end;
            self.memory.producer().store(end, Ordering::Release);
        }
        put as usize
    }

    /// What the consumer has not taken yet, as of now.
    pub(crate) fn unread(&mut self) -> u32 {
        self.look();
        self.cursor.wrapping_sub(self.peer)
    }

    fn look(&mut self) {
        self.peer = self.memory.consumer().load(Ordering::Acquire);
    }

    /// Free slots by what is known of the consumer; none if its cursor makes no sense.
    fn room(&self) -> u32 {
        let unread = self.cursor.wrapping_sub(self.peer);
        self.memory.size().saturating_sub(unread)
    }
}

/// The end that takes out.
pub(crate) struct Consumer<M> {
    memory: M,
    cursor: u32,
    /// The producer's cursor when it was last looked at.
    peer: u32,
}

impl<M: RingMemory> Consumer<M> {
    /// Takes the consumer's end of a ring, wherever its cursors stand.
    ///
    /// # Safety
    /// This is the only consumer of that ring, and what lies in it was put there by a producer.
    pub(crate) unsafe fn new(memory: M) -> Self {
        Self {
            cursor: memory.consumer().load(Ordering::Relaxed),
            peer: memory.producer().load(Ordering::Acquire),
            memory,
        }
    }

    /// Takes out what is there, as far as `into` has room, and says how many that were.
    pub(crate) fn take(&mut self, into: &mut [M::Item]) -> usize {
        if (self.ready() as usize) < into.len() {
            self.peer = self.memory.producer().load(Ordering::Acquire);
        }
        let taken = into.len().min(self.ready() as usize);
        let mut end = self.cursor;
        for item in &mut into[..taken] {
            // SAFETY: `end` is behind a producer's cursor that was loaded with acquire and not
            // behind it by more than the ring's size, so the slot is written and the consumer's.
            *item = self.memory.slot(end).with(|slot| unsafe { slot.read() });
            end = end.wrapping_add(1);
        }
        if taken > 0 {
            self.cursor = end;
            self.memory.consumer().store(end, Ordering::Release);
        }
        taken
    }

    /// Full slots by what is known of the producer; none if its cursor makes no sense.
    fn ready(&self) -> u32 {
        match self.peer.wrapping_sub(self.cursor) {
            ready if ready <= self.memory.size() => ready,
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests;
