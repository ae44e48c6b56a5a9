//! Connections that were accepted while the daemon did not answer.
//!
//! Invariants: a connection is handed out by the process that accepted it, once, and only for the
//! listener that it came by; nobody waits for the lock, which a fork can leave locked.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, TryLockError};

use rustix::io::Errno;
use rustix::net::sockopt::socket_cookie;

/// More are not kept: the oldest is closed.
const MOST: usize = 64;

/// How often to try the lock, which is held for moments.
const TRIES: u32 = 1000;

/// Those that wait to be asked about again.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<VecDeque<Accepted>>);

#[derive(Debug)]
struct Accepted {
    /// Its cookie: the number may be another listener's by now.
    listener: u64,
    process: u32,
    stream: OwnedFd,
}

impl Waiting {
    /// Keeps a connection of this listener.
    pub fn keep(&self, listener: impl AsFd, stream: OwnedFd) -> Result<(), Errno> {
        let accepted = Accepted {
            listener: socket_cookie(listener)?,
            process: std::process::id(),
            stream,
        };
        if let Some(mut all) = self.lock() {
            if all.len() >= MOST {
                all.pop_front();
            }
            all.push_back(accepted);
        }
        Ok(())
    }

    /// One that waits, of this listener.
    pub fn take(&self, listener: impl AsFd) -> Option<OwnedFd> {
        let mut all = self.lock().filter(|all| !all.is_empty())?;
        let listener = socket_cookie(listener).ok()?;
        let process = std::process::id();
        // A forked child has copies, and its parent answers them.
        all.retain(|accepted| accepted.process == process);
        let place = all.iter().position(|one| one.listener == listener)?;
        Some(all.remove(place)?.stream)
    }

    fn lock(&self) -> Option<MutexGuard<'_, VecDeque<Accepted>>> {
        for _ in 0..TRIES {
            match self.0.try_lock() {
                Ok(all) => return Some(all),
                Err(TryLockError::Poisoned(all)) => return Some(all.into_inner()),
                Err(TryLockError::WouldBlock) => std::thread::yield_now(),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn what_waits_is_of_one_listener_and_comes_once() {
        let (waiting, [first, second]) = (Waiting::default(), [listener(), listener()]);
        let stream = OwnedFd::from(listener());
        let number = stream.as_raw_fd();
        waiting.keep(&first, stream).unwrap();
        assert!(waiting.take(&second).is_none());
        let taken = waiting.take(&first).unwrap();
        assert_eq!(taken.as_raw_fd(), number);
        assert!(waiting.take(&first).is_none());
    }

    #[test]
    fn few_are_kept() {
        let (waiting, first) = (Waiting::default(), listener());
        for _ in 0..2 * MOST {
            waiting.keep(&first, listener().into()).unwrap();
        }
        let kept = std::iter::from_fn(|| waiting.take(&first)).count();
        assert_eq!(kept, MOST);
    }
}
