//! Keys from the terminal, as they are pressed.

use std::io::{self, Stdin};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::getpgrp;
use rustix::termios::{
    InputModes, LocalModes, OptionalActions, SpecialCodeIndex, Termios, isatty, tcgetattr,
    tcgetpgrp, tcsetattr,
};

/// The terminal without echo and lines. Dropped, it is as it was before.
pub(super) struct Keys {
    terminal: Stdin,
    before: Termios,
}

impl Keys {
    /// Takes the terminal; none if the input is no terminal, or one that another job has. What was
    /// typed before is thrown away: it was no answer.
    pub(super) fn take() -> Option<Self> {
        let terminal = io::stdin();
        if !isatty(&terminal) || tcgetpgrp(&terminal).ok()? != getpgrp() {
            return None;
        }
        let before = tcgetattr(&terminal).ok()?;
        let mut plain = before.clone();
        plain.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        plain.input_modes |= InputModes::ICRNL;
        plain.special_codes[SpecialCodeIndex::VMIN] = 1;
        plain.special_codes[SpecialCodeIndex::VTIME] = 0;
        // Stopped or ended by these keys, nobody would put the terminal back. Ctrl-C stays: it
        // is taken as a signal.
        for key in [SpecialCodeIndex::VSUSP, SpecialCodeIndex::VQUIT] {
            plain.special_codes[key] = 0;
        }
        tcsetattr(&terminal, OptionalActions::Flush, &plain).ok()?;
        Some(Self { terminal, before })
    }

    /// The keys that were pressed; none at the end of the input. Waits for one.
    pub(super) fn read(&self) -> Option<Vec<u8>> {
        let mut keys = [0; 64];
        match rustix::io::read(&self.terminal, &mut keys) {
            Ok(0) => None,
            Ok(read) => Some(keys[..read].to_vec()),
            Err(Errno::INTR | Errno::AGAIN) => Some(Vec::new()),
            Err(_) => None,
        }
    }
}

impl AsFd for Keys {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}
