//! Tells by one number of a packet which drawers need not be looked into.

use std::cmp::Reverse;

use crate::key::{Key, Shape};

/// For each number of one dimension, the drawers that have a prefix of it.
#[derive(Debug)]
pub(crate) struct Cuts {
    /// Where stretches of numbers begin; the first at 0.
    starts: Box<[u32]>,
    /// The drawers of each stretch.
    drawers: Box<[u64]>,
    /// How many starts lie below each multiple of `1 << shift` above `base`.
    index: Box<[u32]>,
    base: u32,
    shift: u32,
}

/// How many places the index of a [`Cuts`] has.
const INDEX_BITS: u32 = 12;

impl Cuts {
    /// None where no drawer looks at the dimension.
    pub(crate) fn new<'f>(
        files: impl Iterator<Item = (&'f Shape, Vec<&'f Key>)>,
        width: u8,
        bits: impl Fn(&Shape) -> u8,
        value: impl Fn(&Key) -> u32,
    ) -> Option<Self> {
        // Prefixes of one length do not overlap, so a drawer's bit is simply set and cleared.
        let mut edges: Vec<(u64, Reverse<bool>, u32)> = Vec::new();
        let mut is_looked_at = false;
        for ((shape, keys), nth) in files.zip(0u32..) {
            is_looked_at |= bits(shape) > 0;
            let size = 1u64 << (width - bits(shape));
            let mut values: Vec<u32> = keys.into_iter().map(&value).collect();
            values.sort_unstable();
            values.dedup();
            for value in values {
                edges.push((u64::from(value), Reverse(true), nth));
                edges.push((u64::from(value) + size, Reverse(false), nth));
            }
        }
        if !is_looked_at {
            return None;
        }
        // Ends before beginnings, where both fall on one number.
        edges.sort_unstable_by_key(|(at, Reverse(begins), _)| (*at, *begins));
        let (mut starts, mut drawers) = (vec![0u32], vec![0u64]);
        for (at, Reverse(begins), nth) in edges {
            let Ok(at) = u32::try_from(at) else { continue };
            let bit = 1u64 << nth;
            let now = drawers.last().copied().unwrap_or(0);
            let now = if begins { now | bit } else { now & !bit };
            match (starts.last(), drawers.last_mut()) {
                (Some(start), Some(held)) if *start == at => *held = now,
                _ => {
                    starts.push(at);
                    drawers.push(now);
                }
            }
        }
        Some(Self::indexed(starts, drawers))
    }

    fn indexed(starts: Vec<u32>, drawers: Vec<u64>) -> Self {
        let base = starts.get(1).copied().unwrap_or(0);
        let span = starts.last().copied().unwrap_or(0).saturating_sub(base);
        let shift = (u32::BITS - span.leading_zeros()).saturating_sub(INDEX_BITS);
        let places = (span >> shift) + 2;
        let below = |n: u32| {
            let edge = u64::from(base) + (u64::from(n) << shift);
            starts.partition_point(|start| u64::from(*start) < edge) as u32
        };
        Self {
            index: (0..places).map(below).collect(),
            base,
            shift,
            starts: starts.into(),
            drawers: drawers.into(),
        }
    }

    #[inline]
    pub(crate) fn at(&self, value: u32) -> u64 {
        let place = (value.saturating_sub(self.base) >> self.shift) as usize;
        let place = place.min(self.index.len().saturating_sub(2));
        let among = match (self.index.get(place), self.index.get(place + 1)) {
            (Some(from), Some(to)) if value >= self.base => *from as usize..*to as usize,
            _ => 0..self.starts.len().min(1),
        };
        let from = among.start;
        let behind = self
            .starts
            .get(among)
            .map_or(0, |few| few.partition_point(|start| *start <= value));
        self.drawers
            .get((from + behind).wrapping_sub(1))
            .copied()
            .unwrap_or(u64::MAX)
    }
}
