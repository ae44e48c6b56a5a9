//! A median and what lies around it.

/// Of several measurements.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    /// The lowest.
    pub lowest: f64,
    /// The middle one; of an even number, the lower of both.
    pub median: f64,
    /// The highest.
    pub highest: f64,
}

impl Spread {
    /// Of these; all zero if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or_default();
        Spread {
            lowest: at(0),
            median: at(values.len().saturating_sub(1) / 2),
            highest: at(values.len().saturating_sub(1)),
        }
    }

    /// `LOWEST to HIGHEST` with so many decimals.
    pub fn range(&self, decimals: usize) -> String {
        format!("{:.decimals$} to {:.decimals$}", self.lowest, self.highest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        let odd = Spread::of([9.0, 1.0, 2.0]);
        assert_eq!((odd.lowest, odd.median, odd.highest), (1.0, 2.0, 9.0));
        assert_eq!(Spread::of([4.0, 3.0, 2.0, 1.0]).median, 2.0);
        assert_eq!(Spread::of([]).highest, 0.0);
        assert_eq!(odd.range(1), "1.0 to 9.0");
    }
}
