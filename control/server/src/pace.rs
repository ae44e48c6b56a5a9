//! How much of the log goes to the daemon's own log.
//!
//! Whoever can send packets can make entries: the daemon's log, which fills disks, gets a few
//! of each kind and then only how many more there were.

use std::collections::HashMap;
use std::hash::Hash;

pub(crate) const SECOND_NS: u64 = 1_000_000_000;
/// The longest time between two lines about a drop that goes on.
const LONGEST_NS: u64 = 60 * SECOND_NS;
/// How many lines a topic may have in a second.
const LINES_PER_SECOND: u32 = 10;

/// Lets a topic have so many lines a second.
pub(crate) struct Pace<Topic>(HashMap<Topic, Window>);

struct Window {
    begun_ns: u64,
    told: u32,
    left: u64,
    /// What the topic is called.
    name: String,
}

impl<Topic> Default for Pace<Topic> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<Topic: Eq + Hash> Pace<Topic> {
    /// Whether a line may be told now; if not, it is counted. `name` is called for the first line.
    pub(crate) fn admits(
        &mut self,
        topic: Topic,
        now_ns: u64,
        name: impl FnOnce() -> String,
    ) -> bool {
        let window = self.0.entry(topic).or_insert_with(|| Window {
            begun_ns: now_ns,
            told: 0,
            left: 0,
            name: name(),
        });
        let is_admitted = window.told < LINES_PER_SECOND;
        if is_admitted {
            window.told += 1;
        } else {
            window.left += 1;
        }
        is_admitted
    }

    /// Ends the seconds that are over. Names of topics that had more lines than were told, and
    /// how many more. To be called before lines are admitted.
    pub(crate) fn end(&mut self, now_ns: u64) -> Vec<(String, u64)> {
        let mut left = Vec::new();
        self.0.retain(|_, window| {
            let is_over = now_ns.saturating_sub(window.begun_ns) >= SECOND_NS;
            if is_over && window.left > 0 {
                left.push((std::mem::take(&mut window.name), window.left));
            }
            !is_over
        });
        left
    }
}

/// Tells of what goes on and on ever more rarely: at once, after a second, after two.
#[derive(Default)]
pub(crate) struct Backoff {
    due_ns: u64,
    wait_ns: u64,
    untold: u64,
}

impl Backoff {
    /// Counts `more`. How many there were since the last time, if it is time to tell.
    pub(crate) fn count(&mut self, more: u64, now_ns: u64) -> Option<u64> {
        self.untold += more;
        if self.untold == 0 || now_ns < self.due_ns {
            return None;
        }
        let was_calm = now_ns.saturating_sub(self.due_ns) >= self.wait_ns.max(SECOND_NS);
        self.wait_ns = if was_calm {
            SECOND_NS
        } else {
            (self.wait_ns * 2).min(LONGEST_NS)
        };
        self.due_ns = now_ns + self.wait_ns;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_lines_a_second_and_then_their_number() {
        let mut pace = Pace::default();
        let now = 5 * SECOND_NS;
        let mut admitted = |topic, now| pace.admits(topic, now, || format!("rule {topic}"));
        assert_eq!((0..25).filter(|_| admitted(1, now)).count(), 10);
        assert!(admitted(2, now), "another topic is another matter");
        assert!(pace.end(now + SECOND_NS - 1).is_empty());
        assert_eq!(
            pace.end(now + SECOND_NS),
            [("rule 1".to_owned(), 15)],
            "what was told whole needs no number"
        );
        assert!(pace.end(now + SECOND_NS).is_empty());
        assert!(pace.admits(1, now + SECOND_NS, String::new));
    }

    #[test]
    fn what_goes_on_is_told_ever_more_rarely() {
        let mut backoff = Backoff::default();
        let step = SECOND_NS / 10;
        let mut told = Vec::new();
        for tick in 0..2000 {
            let at = SECOND_NS + tick * step;
            if let Some(count) = backoff.count(1, at) {
                told.push((tick, count));
            }
        }
        assert_eq!(
            told,
            [
                (0, 1),
                (10, 10),
                (30, 20),
                (70, 40),
                (150, 80),
                (310, 160),
                (630, 320),
                (1230, 600),
                (1830, 600)
            ]
        );
        // What is left is told when it is due, and the next after a calm at once.
        let mut at = SECOND_NS + 1830 * step + LONGEST_NS;
        assert_eq!(backoff.count(0, at), Some(169));
        at += 4 * LONGEST_NS;
        assert_eq!(backoff.count(0, at), None);
        assert_eq!(backoff.count(3, at), Some(3));
        assert_eq!(backoff.count(3, at + SECOND_NS), Some(3));
    }
}
