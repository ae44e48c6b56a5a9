//! A batch of ring frames as the pipeline wants to see it.

use pipeline::Frames;
use xsk::{Frame, Region};

pub(crate) struct RingFrames<'a> {
    pub(crate) region: &'a Region,
    pub(crate) frames: &'a mut [Frame],
}

impl Frames for RingFrames<'_> {
    fn len(&self) -> usize {
        self.frames.len()
    }

    fn bytes(&mut self, at: usize) -> &mut [u8] {
        match self.frames.get_mut(at) {
            Some(frame) => self.region.bytes(frame),
            None => &mut [],
        }
    }

    fn shorten(&mut self, at: usize, len: usize) {
        if let Some(frame) = self.frames.get_mut(at) {
            self.region.shorten(frame, len);
        }
    }

    fn lengthen(&mut self, at: usize, len: usize) {
        if let Some(frame) = self.frames.get_mut(at) {
            self.region.lengthen(frame, len);
        }
    }
}
