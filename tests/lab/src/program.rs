//! A program that runs beside the test, as a guard.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::line;

/// How long a program may take to say that it is ready, or to end.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running program; ended by its process id on drop.
#[derive(Debug)]
pub struct Program {
    line: String,
    child: Option<Child>,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Program {
    /// Starts `command`; its output goes to `NAME.out` and `NAME.err` in `dir`.
    pub fn start(dir: &Path, name: &str, mut command: Command) -> Result<Self> {
        let file = |suffix: &str| -> Result<(PathBuf, File)> {
            let path = dir.join(format!("{name}.{suffix}"));
            let file = File::create(&path).with_context(|| path.display().to_string())?;
            Ok((path, file))
        };
        let (stdout, out) = file("out")?;
        let (stderr, err) = file("err")?;
        command.env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(out).stderr(err);
        let line = line(&command);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {line}"))?;
        Ok(Program {
            line,
            child: Some(child),
            stdout,
            stderr,
        })
    }

    /// Its process id; `ip netns exec` becomes the program, so it is the program's own.
    pub fn pid(&self) -> Option<Pid> {
        let id = self.child.as_ref()?.id();
        Some(Pid::from_raw(i32::try_from(id).ok()?))
    }

    /// What it printed so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it complained of so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits for a line with `text` on either output; its end before that is an error.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let ended = self.ended()?;
            let said = self.stdout() + &self.stderr();
            if let Some(line) = said.lines().find(|line| line.contains(text)) {
                return Ok(line.to_owned());
            }
            if let Some(status) = ended {
                bail!("{} ended ({status}) before `{text}`:\n{said}", self.line);
            }
            if Instant::now() > until {
                bail!("{} does not say `{text}`:\n{said}", self.line);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        let pid = self.pid().context("released")?;
        if self.ended()?.is_none() {
            kill(pid, signal)?;
        }
        Ok(())
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() > until {
                bail!("{} does not end", self.line);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal and waits for the end.
    pub fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.wait()
    }

    /// Leaves the program running when the guard goes.
    pub fn release(&mut self) {
        self.child = None;
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.child.is_none() {
            return;
        }
        // A polite end first: nginx takes its workers along.
        let _ = self.signal(Signal::SIGTERM);
        let until = Instant::now() + Duration::from_secs(3);
        while matches!(self.ended(), Ok(None)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.signal(Signal::SIGKILL);
        if let Some(child) = &mut self.child {
            let _ = child.wait();
        }
    }
}

fn read(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}
