//! Ranges of numbers as prefixes.

/// One dimension of a rule: prefixes that cover all that it can match there.
pub(crate) struct Prefixes {
    /// Bits and how many of them count; no two overlap.
    pub(crate) all: Vec<(u32, u8)>,
    /// They cover nothing else.
    pub(crate) is_exact: bool,
}

impl Prefixes {
    pub(crate) fn any() -> Self {
        Self {
            all: vec![(0, 0)],
            is_exact: true,
        }
    }

    /// Cuts prefixes down to these lengths, rising from 0.
    pub(crate) fn cut_down(&mut self, to: &[u8], width: u8) {
        for (value, bits) in &mut self.all {
            let level = to.iter().rev().find(|level| *level <= bits).copied();
            let level = level.unwrap_or(0);
            if level < *bits {
                self.is_exact = false;
                *bits = level;
                *value &= !low_ones(width - level);
            }
        }
        self.all.sort_unstable();
        self.all.dedup();
    }

    /// One prefix that covers all.
    pub(crate) fn join(&mut self, width: u8) {
        let (Some(low), Some(high)) = (
            self.all.iter().map(|(value, _)| *value).min(),
            self.all
                .iter()
                .map(|(value, bits)| value | low_ones(width - bits))
                .max(),
        ) else {
            return;
        };
        let common = (low ^ high)
            .leading_zeros()
            .saturating_sub(32 - u32::from(width)) as u8;
        if self.all.len() > 1 {
            self.all = vec![(low & !low_ones(width - common), common)];
            self.is_exact = false;
        }
    }
}

const fn low_ones(bits: u8) -> u32 {
    match u32::MAX.checked_shr(32 - bits as u32) {
        Some(ones) if bits > 0 => ones,
        _ => 0,
    }
}

/// The fewest prefixes that together are a range of numbers of so many bits.
pub(crate) fn prefixes_of(first: u32, last: u32, width: u8) -> Vec<(u32, u8)> {
    let mut all = Vec::new();
    let (mut at, last) = (u64::from(first), u64::from(last));
    while at <= last {
        let aligned = at.trailing_zeros().min(u32::from(width));
        let fits = (last - at + 1).ilog2();
        let size = aligned.min(fits);
        all.push((at as u32, width - size as u8));
        at += 1 << size;
    }
    all
}
