//! What changes from one ruleset to the next, as `diff -u` shows it.

use std::io::{self, Write};
use std::time::Duration;

use similar::{DiffOp, TextDiff};

/// More changed lines than that nobody reads.
const SHOWN_MAX: usize = 20_000;

/// The difference of two texts.
pub(crate) struct Difference {
    /// How many lines come.
    pub(crate) added: usize,
    /// How many go.
    pub(crate) removed: usize,
    /// Its text: empty if there is no difference, none if it is too long to be shown.
    pub(crate) text: Option<String>,
}

impl Difference {
    /// Compares texts, each with its name. Of texts that have hardly anything in common it may show
    /// more than is needed.
    pub(crate) fn new(before: (&str, &str), after: (&str, &str)) -> Self {
        let mut config = TextDiff::configure();
        config.timeout(Duration::from_secs(5));
        let diff = config.diff_lines(before.1, after.1);
        let changes = || (diff.ops().iter()).filter(|op| !matches!(op, DiffOp::Equal { .. }));
        let added = changes().map(|op| op.new_range().len()).sum();
        let removed = changes().map(|op| op.old_range().len()).sum();
        let text = (added + removed <= SHOWN_MAX).then(|| {
            let mut unified = diff.unified_diff();
            let unified = unified.context_radius(3).header(before.0, after.0);
            unified.to_string()
        });
        Self {
            added,
            removed,
            text,
        }
    }

    /// Prints its text, if it has one, in colours if that is wanted.
    pub(crate) fn print(&self, out: &mut impl Write, is_coloured: bool) -> io::Result<()> {
        let text = self.text.as_deref().unwrap_or_default();
        if !is_coloured {
            return out.write_all(text.as_bytes());
        }
        for line in text.lines() {
            let colour = match line.chars().next() {
                _ if line.starts_with("+++ ") || line.starts_with("--- ") => "1",
                Some('+') => "32",
                Some('-') => "31",
                Some('@') => "36",
                _ => "0",
            };
            // A terminal must not obey what somebody wrote into a comment.
            let plain: String = (line.chars())
                .map(|c| if c.is_control() && c != '\t' { '?' } else { c })
                .collect();
            writeln!(out, "\x1b[{colour}m{plain}\x1b[0m")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_in_colours_and_without() {
        let (before, after) = ("a\nb\nc\n", "a\nB\x1b[2J\nc\nd\n");
        let difference = Difference::new(("old", before), ("new", after));
        assert_eq!((difference.added, difference.removed), (2, 1));
        let expected = "--- old\n+++ new\n@@ -1,3 +1,4 @@\n a\n-b\n+B\x1b[2J\n c\n+d\n";
        assert_eq!(difference.text.as_deref(), Some(expected));
        let mut plain = Vec::new();
        difference.print(&mut plain, false).unwrap();
        assert_eq!(plain, expected.as_bytes());
        let mut coloured = Vec::new();
        difference.print(&mut coloured, true).unwrap();
        let coloured = String::from_utf8(coloured).unwrap();
        assert!(coloured.contains("\x1b[31m-b\x1b[0m\n\x1b[32m+B?[2J\x1b[0m\n"));
        let same = Difference::new(("old", before), ("new", before));
        assert_eq!((same.added, same.removed), (0, 0));
        assert_eq!(same.text.as_deref(), Some(""));
    }

    #[test]
    fn a_long_difference_is_only_counted() {
        let before: String = (0..12_000).map(|n| format!("{n}\n")).collect();
        let after: String = (0..12_000).map(|n| format!("-{n}\n")).collect();
        let difference = Difference::new(("old", &before), ("new", &after));
        assert_eq!((difference.added, difference.removed), (12_000, 12_000));
        assert_eq!(difference.text, None);
        let mut printed = Vec::new();
        difference.print(&mut printed, true).unwrap();
        assert!(printed.is_empty());
        let less = Difference::new(("old", ""), ("new", &after));
        assert!(less.text.is_some_and(|text| text.lines().count() > 12_000));
    }
}
