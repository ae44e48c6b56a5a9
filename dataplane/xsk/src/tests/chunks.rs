//! What comes out of rings of our own becomes frames of the region, whatever it says.

use super::veth::region;
use crate::region::{Frame, Region};
use crate::{CHUNK_BYTES, MAX_FRAME_BYTES};

const START: u64 = (CHUNK_BYTES - MAX_FRAME_BYTES) as u64;

/// A frame as if received at an offset into chunk 1, whose bytes are numbered from where
/// frames begin.
fn received(region: &mut Region, into: u64, len: u32) -> Option<Frame> {
    let mut whole = region
        .chunks
        .at(u64::from(CHUNK_BYTES))
        .map(Frame)
        .expect("chunk 1");
    region.set_len(&mut whole, MAX_FRAME_BYTES as usize);
    for (at, byte) in region.bytes(&mut whole).iter_mut().enumerate() {
        *byte = at as u8;
    }
    let offset = u64::from(CHUNK_BYTES) + into;
    // SAFETY: no lane is open, so no chunk is with the kernel, and `whole` is not used again.
    unsafe { region.chunks.received(offset, len) }.map(Frame)
}

#[test]
fn a_frame_is_where_frames_begin() {
    let mut region = region(4);
    let mut frame = received(&mut region, START, 100).expect("a frame");
    assert_eq!(frame.offset() as u64, u64::from(CHUNK_BYTES) + START);
    assert_eq!(frame.len(), 100);
    assert_eq!(region.bytes(&mut frame)[..3], [0, 1, 2]);
    let longest = received(&mut region, START, MAX_FRAME_BYTES).expect("a frame");
    assert_eq!(longest.len(), MAX_FRAME_BYTES as usize);
}

#[test]
fn a_frame_that_begins_later_is_moved() {
    let mut region = region(4);
    let mut frame = received(&mut region, START + 16, 100).expect("a frame");
    assert_eq!(frame.offset() as u64, u64::from(CHUNK_BYTES) + START);
    assert_eq!(frame.len(), 100);
    assert_eq!(region.bytes(&mut frame)[..3], [16, 17, 18]);
    let longest = received(&mut region, START + 16, MAX_FRAME_BYTES - 16).expect("a frame");
    assert_eq!(longest.len(), MAX_FRAME_BYTES as usize - 16);
}

#[test]
fn a_frame_that_cannot_be_reached_comes_out_empty() {
    let mut region = region(4);
    let ends_outside = [
        (START, MAX_FRAME_BYTES + 1),
        (START + 16, MAX_FRAME_BYTES - 15),
        (u64::from(CHUNK_BYTES) - 1, 2),
        (START, u32::MAX),
    ];
    for (into, len) in ends_outside.into_iter().chain([(0, 64), (START - 1, 64)]) {
        let frame = received(&mut region, into, len).expect("a frame");
        assert!(frame.is_empty(), "{len} bytes at {into}");
        assert_eq!(frame.offset() as u64, u64::from(CHUNK_BYTES) + START);
    }
}

#[test]
fn no_chunk_is_outside_of_the_region() {
    let region = region(4);
    let end = u64::from(CHUNK_BYTES) * 4;
    assert!(region.chunks.at(end - 1).is_some());
    assert!(region.chunks.at(end).is_none());
    assert!(region.chunks.at(u64::MAX).is_none());
    // SAFETY: there is no such chunk.
    assert!(unsafe { region.chunks.received(end, 60) }.is_none());
}

#[test]
fn a_free_chunk_takes_a_frame() {
    let mut region = region(1);
    let mut frame = region.take(60).expect("a free chunk");
    region.bytes(&mut frame).fill(7);
    assert_eq!(frame.len(), 60);
    assert!(region.take(60).is_none(), "it was the only one");
    region.put(frame);
    let longer = region.take(usize::MAX).expect("a free chunk");
    assert_eq!(longer.len(), MAX_FRAME_BYTES as usize);
}
