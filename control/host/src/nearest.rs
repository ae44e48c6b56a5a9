//! The name that somebody probably meant.

/// The candidate that looks most like `name`, if one is near enough to be worth saying.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may be wrong, and at least one: `eht1` is `eth1`, `lo` is not `eth1`.
    let limit = (name.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_what_was_meant_and_nothing_else() {
        let names = ["lo", "eth0", "eth1", "wlan0"];
        assert_eq!(nearest("eht1", names), Some("eth1"));
        assert_eq!(nearest("wlna0", names), Some("wlan0"));
        assert_eq!(nearest("bond7", names), None);
        assert_eq!(nearest("", names), None);
    }
}
