//! Who is connected on the proxies' socket.
//!
//! Invariants: no user but root can take all places; those whom no grant names, however many
//! users they are, leave half to the others; and all of them leave some to root.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, getrlimit, setrlimit};

/// How many connections there may be at once. Every proxy that registers keeps one.
const CONNECTIONS_MAX: usize = 1024;
/// How many of them one user may have, root excepted.
const CONNECTIONS_PER_USER_MAX: usize = 256;
/// How many all users may have together whom no grant names: they can ask for original
/// destinations, and no more.
const CONNECTIONS_OF_STRANGERS_MAX: usize = CONNECTIONS_MAX / 2;
/// How many are left to root.
const CONNECTIONS_OF_ROOT: usize = 64;

/// How many descriptors one takes: the connection, a bell, the client's process and its folder,
/// a file there, and the copy of a socket.
const DESCRIPTORS_EACH: u64 = 6;
/// How many the daemon needs for everything else.
const DESCRIPTORS_BESIDE: u64 = 2048;

/// Lets the process open as many descriptors as all places take; services start with 1024.
pub(crate) fn raise_limit() {
    let needed = CONNECTIONS_MAX as u64 * DESCRIPTORS_EACH + DESCRIPTORS_BESIDE;
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= needed) {
        return;
    }
    limit.current = Some(limit.maximum.map_or(needed, |maximum| maximum.min(needed)));
    let raised = setrlimit(Resource::Nofile, limit);
    if raised.is_err() || limit.current < Some(needed) {
        tracing::warn!("the process may open fewer than {needed} files: raise LimitNOFILE");
    }
}

/// Who is connected.
#[derive(Default)]
pub(crate) struct Places(Mutex<Taken>);

#[derive(Default)]
struct Taken {
    next_id: u64,
    connections: HashMap<u64, (Whose, Arc<UnixStream>)>,
}

/// Whose connection one is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Whose {
    pub(crate) uid: u32,
    /// Whether a grant names the user, or a group of his.
    pub(crate) is_granted: bool,
}

impl Whose {
    const fn is_root(self) -> bool {
        self.uid == 0
    }

    const fn is_stranger(self) -> bool {
        !self.is_root() && !self.is_granted
    }
}

impl Taken {
    fn count(&self, which: impl Fn(Whose) -> bool) -> usize {
        let each = self.connections.values();
        each.filter(|(whose, _)| which(*whose)).count()
    }

    fn has_room(&self, whose: Whose) -> bool {
        let all = self.connections.len();
        if whose.is_root() {
            return all < CONNECTIONS_MAX;
        }
        self.count(|other| !other.is_root()) < CONNECTIONS_MAX - CONNECTIONS_OF_ROOT
            && all < CONNECTIONS_MAX
            && self.count(|other| other.uid == whose.uid) < CONNECTIONS_PER_USER_MAX
            && !(whose.is_stranger()
                && self.count(Whose::is_stranger) >= CONNECTIONS_OF_STRANGERS_MAX)
    }
}

/// One place, given back when dropped.
pub(crate) struct Place {
    id: u64,
    places: Arc<Places>,
}

impl Places {
    /// Takes a place for a user's connection, if there is one for him.
    pub(crate) fn take(self: &Arc<Self>, whose: Whose, stream: &Arc<UnixStream>) -> Option<Place> {
        let mut taken = self.lock();
        if !taken.has_room(whose) {
            return None;
        }
        let id = taken.next_id;
        taken.next_id += 1;
        taken.connections.insert(id, (whose, Arc::clone(stream)));
        Some(Place {
            id,
            places: Arc::clone(self),
        })
    }

    /// Ends every conversation.
    pub(crate) fn hang_up(&self) {
        for (_, stream) in self.lock().connections.values() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().connections.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Crowd {
        places: Arc<Places>,
        stream: Arc<UnixStream>,
    }

    impl Crowd {
        fn new() -> Self {
            Self {
                places: Arc::default(),
                stream: Arc::new(UnixStream::pair().unwrap().0),
            }
        }

        /// Takes as many places as there are, but not more than `count`.
        fn take(&self, uid: u32, is_granted: bool, count: usize) -> Vec<Place> {
            let whose = Whose { uid, is_granted };
            (0..count)
                .map_while(|_| self.places.take(whose, &self.stream))
                .collect()
        }
    }

    #[test]
    fn no_user_but_root_can_take_all_places() {
        let crowd = Crowd::new();
        let mut first = crowd.take(1000, true, 2000);
        assert_eq!(first.len(), CONNECTIONS_PER_USER_MAX);
        let root = crowd.take(0, false, 2000);
        assert_eq!(root.len(), CONNECTIONS_MAX - CONNECTIONS_PER_USER_MAX);
        assert_eq!(crowd.take(1001, true, 1).len(), 0, "all are taken");
        first.pop();
        assert_eq!(crowd.take(1001, true, 2).len(), 1, "a place comes back");
    }

    #[test]
    fn strangers_leave_half_to_others_and_all_leave_some_to_root() {
        let crowd = Crowd::new();
        let of_many = |from: u32, is_granted: bool| -> Vec<Place> {
            let each = from..from + 50;
            each.flat_map(|uid| crowd.take(uid, is_granted, 100))
                .collect()
        };
        let mut strangers = of_many(1000, false);
        assert_eq!(strangers.len(), 512);
        let known = of_many(2000, true);
        assert_eq!(known.len(), 512 - 64);
        strangers.pop();
        assert_eq!(crowd.take(1999, false, 5).len(), 1);
        let root = crowd.take(0, false, 2000);
        assert_eq!(root.len(), 65, "one has left again");
    }
}
