//! The command that runs as long as a registration stands.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, Command, ExitCode, ExitStatus};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::run::Failed;

/// A running command.
pub(crate) struct Child(process::Child);

impl Child {
    /// Starts it, if there is one.
    pub(crate) fn start(command: &[OsString]) -> Result<Option<Self>, Failed> {
        Self::start_with(command, |_| {})
    }

    /// The same, with its surroundings as `prepare` says.
    pub(crate) fn start_with(
        command: &[OsString],
        prepare: impl FnOnce(&mut Command),
    ) -> Result<Option<Self>, Failed> {
        let Some((program, arguments)) = command.split_first() else {
            return Ok(None);
        };
        let mut command = Command::new(program);
        command.args(arguments);
        prepare(&mut command);
        let child = command.spawn();
        let child = child.map_err(|e| Failed::Told(format!("{}: {e}", program.display())))?;
        Ok(Some(Self(child)))
    }

    /// Its exit code, once it has ended.
    pub(crate) fn code(&mut self) -> Option<ExitCode> {
        self.0.try_wait().ok().flatten().map(code)
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Result<ExitCode, Failed> {
        let status = self.0.wait();
        status
            .map(code)
            .map_err(|e| Failed::Told(format!("waiting for the command: {e}")))
    }

    /// Passes a signal on. One that has ended needs none.
    pub(crate) fn send(&self, signal: Signal) {
        // Not yet waited for, so the number is still its own.
        if let Ok(pid) = self.0.id().try_into() {
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// The code as shells tell it: one that a signal ended has 128 and the signal's number.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| Some(128 + status.signal()?));
    code.and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from)
}
