//! Times in words.

/// A span of time in its two largest units: `1d 2h`, `3m 20s`, `1.5s`, `20ms`.
pub(crate) fn span(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if days > 0 => format!("{days}d {}h", hours % 24),
        () if hours > 0 => format!("{hours}h {}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m {}s", seconds % 60),
        () if seconds > 0 => format!("{seconds}.{}s", ns / 100_000_000 % 10),
        () => format!("{}ms", ns / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn spans_of_every_size() {
        let second = 1_000_000_000;
        for (ns, words) in [
            (0, "0ms"),
            (20_900_000, "20ms"),
            (1_550_000_000, "1.5s"),
            (59_999_999_999, "59.9s"),
            (200 * second, "3m 20s"),
            (7440 * second, "2h 4m"),
            (93_784 * second, "1d 2h"),
        ] {
            assert_eq!(super::span(ns), words);
        }
        assert!(super::span(u64::MAX).contains('d'));
    }
}
