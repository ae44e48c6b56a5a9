//! Who is connected on the proxies' socket.
//!
//! Invariant: no user but root can take all places.

use std::collections::HashMap;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Resource, getrlimit, setrlimit};

/// How many connections there may be at once. Every proxy that registers keeps one.
const CONNECTIONS_MAX: usize = 1024;
/// How many of them one user may have, root excepted.
const CONNECTIONS_PER_USER_MAX: usize = 256;

/// How many descriptors one takes: the connection, a bell, the client's process and its folder,
/// and the copy of a socket.
const DESCRIPTORS_EACH: u64 = 5;
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
    connections: HashMap<u64, (u32, Arc<UnixStream>)>,
}

/// One place, given back when dropped.
pub(crate) struct Place {
    id: u64,
    places: Arc<Places>,
}

impl Places {
    /// Takes a place for a user's connection, if there is one for him.
    pub(crate) fn take(self: &Arc<Self>, uid: u32, stream: &Arc<UnixStream>) -> Option<Place> {
        let mut taken = self.lock();
        let of_user = taken
            .connections
            .values()
            .filter(|(user, _)| *user == uid)
            .count();
        let user_is_full = uid != 0 && of_user >= CONNECTIONS_PER_USER_MAX;
        if taken.connections.len() >= CONNECTIONS_MAX || user_is_full {
            return None;
        }
        let id = taken.next_id;
        taken.next_id += 1;
        taken.connections.insert(id, (uid, Arc::clone(stream)));
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

    #[test]
    fn no_user_but_root_can_take_all_places() {
        let places = Arc::new(Places::default());
        let stream = Arc::new(UnixStream::pair().unwrap().0);
        let take = |uid, count: usize| -> Vec<Place> {
            (0..count)
                .map_while(|_| places.take(uid, &stream))
                .collect()
        };
        let mut first = take(1000, 2000);
        assert_eq!(first.len(), CONNECTIONS_PER_USER_MAX);
        let root = take(0, 2000);
        assert_eq!(root.len(), CONNECTIONS_MAX - CONNECTIONS_PER_USER_MAX);
        assert_eq!(take(1001, 1).len(), 0, "all are taken");
        first.pop();
        assert_eq!(take(1001, 2).len(), 1, "a place comes back");
    }
}
