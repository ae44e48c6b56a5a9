//! Signals as something to wait for, in place of something that strikes.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What asks to end, as a user or a service manager does.
pub(crate) const ENDING: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// Signals that no longer strike. To be taken before there are threads.
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Takes [`ENDING`], and that a child has ended.
    pub(crate) fn take() -> Result<Self> {
        let mut set: SigSet = ENDING.into_iter().collect();
        set.add(Signal::SIGCHLD);
        set.thread_block()?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        Ok(Self(SignalFd::with_flags(&set, flags)?))
    }

    /// Waits for the next, at most as long as said (and never more than a minute).
    pub(crate) fn wait(&self, at_most: Duration) -> Result<Option<Signal>> {
        let mut ready = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        // A started millisecond counts: else the last one would be spent in a busy loop.
        let millis = at_most.as_micros().div_ceil(1000).min(60_000);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        match poll(&mut ready, timeout) {
            Ok(0) | Err(Errno::EINTR) => return Ok(None),
            Ok(_) => {}
            Err(errno) => return Err(errno),
        }
        let signal = self.0.read_signal()?;
        Ok(signal.and_then(|signal| Signal::try_from(signal.ssi_signo as i32).ok()))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
