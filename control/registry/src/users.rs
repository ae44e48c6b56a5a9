//! How many registrations each user has.
//!
//! Invariant: no user but root can fill the table, nor can all of them together.

use std::collections::HashMap;

/// What users other than root leave to root: one part of so many.
const ROOTS_PART: usize = 16;

/// Live registrations by user.
#[derive(Debug, Default)]
pub(crate) struct Users {
    by_user: HashMap<u32, usize>,
    /// Of all users but root.
    others: usize,
}

impl Users {
    pub(crate) fn add(&mut self, uid: u32) {
        *self.by_user.entry(uid).or_insert(0) += 1;
        self.others += usize::from(uid != 0);
    }

    pub(crate) fn remove(&mut self, uid: u32) {
        let Some(count) = self.by_user.get_mut(&uid) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            self.by_user.remove(&uid);
        }
        self.others -= usize::from(uid != 0);
    }

    /// Whether this user may have one more in a table of this capacity.
    pub(crate) fn has_room(&self, uid: u32, capacity: usize) -> bool {
        let own = self.by_user.get(&uid).copied().unwrap_or(0);
        let for_all = capacity - capacity.div_ceil(ROOTS_PART);
        uid == 0 || (own < capacity / 2 && self.others < for_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(users: &mut Users, uid: u32, capacity: usize) -> usize {
        let mut added = 0;
        while users.has_room(uid, capacity) && added < capacity {
            users.add(uid);
            added += 1;
        }
        added
    }

    #[test]
    fn half_for_one_user_and_a_sixteenth_left_to_root() {
        for (capacity, half, rest) in [(160, 80, 70), (16, 8, 7), (20, 10, 8), (2, 1, 0), (1, 0, 0)]
        {
            let mut users = Users::default();
            assert_eq!(fill(&mut users, 13, capacity), half, "{capacity}");
            assert_eq!(fill(&mut users, 14, capacity), rest, "{capacity}");
            assert_eq!(fill(&mut users, 15, capacity), 0, "{capacity}");
            assert!(users.has_room(0, capacity));
            if half > 0 {
                users.remove(13);
                assert_eq!(fill(&mut users, 15, capacity), 1, "{capacity}");
            }
        }
    }
}
