//! What changes from one ruleset to the next, as `diff -u` shows it.

use std::io::{self, Write};
use std::time::Duration;

use similar::{ChangeTag, TextDiff};

/// The difference of two texts.
pub(crate) struct Difference {
    /// How many lines come.
    pub(crate) added: usize,
    /// How many go.
    pub(crate) removed: usize,
    /// Its text; empty if there is none.
    pub(crate) text: String,
}

impl Difference {
    /// Compares texts, each with its name. Of texts that have hardly anything in common it may show
    /// more than is needed.
    pub(crate) fn new(before: (&str, &str), after: (&str, &str)) -> Self {
        let mut config = TextDiff::configure();
        config.timeout(Duration::from_secs(5));
        let diff = config.diff_lines(before.1, after.1);
        let count = |tag| {
            diff.iter_all_changes()
                .filter(|change| change.tag() == tag)
                .count()
        };
        let mut unified = diff.unified_diff();
        let text = unified
            .context_radius(3)
            .header(before.0, after.0)
            .to_string();
        Self {
            added: count(ChangeTag::Insert),
            removed: count(ChangeTag::Delete),
            text,
        }
    }

    /// Prints it, in colours if that is wanted.
    pub(crate) fn print(&self, out: &mut impl Write, is_coloured: bool) -> io::Result<()> {
        if !is_coloured {
            return out.write_all(self.text.as_bytes());
        }
        for line in self.text.lines() {
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
        assert_eq!(difference.text, expected);
        let mut plain = Vec::new();
        difference.print(&mut plain, false).unwrap();
        assert_eq!(plain, expected.as_bytes());
        let mut coloured = Vec::new();
        difference.print(&mut coloured, true).unwrap();
        let coloured = String::from_utf8(coloured).unwrap();
        assert!(coloured.contains("\x1b[31m-b\x1b[0m\n\x1b[32m+B?[2J\x1b[0m\n"));
        assert_eq!(Difference::new(("old", before), ("new", before)).text, "");
    }
}
