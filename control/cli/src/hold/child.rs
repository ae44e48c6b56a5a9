//! The command that runs as long as a registration stands.

use std::env;
use std::ffi::{CString, NulError, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawnp};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::run::Failed;

/// A running command.
pub(crate) struct Child {
    pid: Pid,
    /// Once it has been waited for, the number can be another's.
    code: Option<ExitCode>,
}

impl Child {
    /// Starts it, if there is one. Signals that wait here strike there.
    pub(crate) fn start(command: &[OsString]) -> Result<Option<Self>, Failed> {
        let Some((program, _)) = command.split_first() else {
            return Ok(None);
        };
        let pid = spawn(command);
        let pid = pid.map_err(|e| Failed::Told(format!("{}: {e}", program.display())))?;
        Ok(Some(Self { pid, code: None }))
    }

    /// The same for one with other surroundings, as `prepare` says, by a process that has no
    /// signal wait.
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
        let pid = Pid::from_raw(child.id().cast_signed());
        Ok(Some(Self { pid, code: None }))
    }

    /// Its exit code, once it has ended.
    pub(crate) fn code(&mut self) -> Option<ExitCode> {
        if self.code.is_none() {
            let status = waitpid(self.pid, Some(WaitPidFlag::WNOHANG));
            self.code = status.ok().and_then(code);
        }
        self.code
    }

    /// Waits for its end.
    pub(crate) fn wait(self) -> Result<ExitCode, Failed> {
        loop {
            match waitpid(self.pid, None) {
                Ok(status) => {
                    if let Some(code) = code(status) {
                        return Ok(code);
                    }
                }
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    let told = format!("waiting for the command: {}", errno.desc());
                    return Err(Failed::Told(told));
                }
            }
        }
    }

    /// Passes a signal on. One that has ended needs none.
    pub(crate) fn send(&self, signal: Signal) {
        if self.code.is_none() {
            let _ = kill(self.pid, signal);
        }
    }
}

/// A new process with no signal blocked, whatever is here. The standard library's would inherit
/// what [`Signals`](crate::signals::Signals) blocks, and a command like `sleep` then never end.
fn spawn(command: &[OsString]) -> io::Result<Pid> {
    let text = |word: OsString| CString::new(word.into_vec());
    let words = command.iter().cloned().map(text);
    let words: Vec<CString> = words.collect::<Result<_, NulError>>()?;
    let variables = env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        text(name)
    });
    let variables: Vec<CString> = variables.collect::<Result<_, NulError>>()?;
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_sigmask(&SigSet::empty())?;
    // Ignored here, as in every program of this language; the command shall have what is usual.
    attributes.set_sigdefault(&SigSet::from(Signal::SIGPIPE))?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;
    let program = words.first().ok_or(io::ErrorKind::InvalidInput)?;
    let actions = PosixSpawnFileActions::init()?;
    let pid = posix_spawnp(
        program.as_c_str(),
        &actions,
        &attributes,
        &words,
        &variables,
    )?;
    Ok(pid)
}

/// The code as shells tell it: one that a signal ended has 128 and the signal's number.
fn code(status: WaitStatus) -> Option<ExitCode> {
    match status {
        WaitStatus::Exited(_, code) => {
            Some(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
        }
        WaitStatus::Signaled(_, signal, _) => {
            let code = u8::try_from(128 + signal as i32);
            Some(code.map_or(ExitCode::FAILURE, ExitCode::from))
        }
        _ => None,
    }
}
