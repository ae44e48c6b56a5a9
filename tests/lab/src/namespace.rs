//! A network namespace as a guard.
//!
//! Invariant: dropping it ends what runs inside, by process id, and removes it.

use std::fs::File;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::run;

/// A namespace made by `ip netns add`.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    keep: bool,
}

impl Namespace {
    /// Makes the namespace `name`, with its loopback up.
    pub fn create(name: &str) -> Result<Self> {
        run(Command::new("ip").args(["netns", "add", name]))?;
        let namespace = Namespace {
            name: name.to_owned(),
            keep: false,
        };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Leaves the namespace standing when the guard goes.
    pub fn keep(&mut self) {
        self.keep = true;
    }

    /// `ip -n NAME WORDS`.
    pub fn ip(&self, words: &str) -> Result<String> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]);
        run(command.args(words.split_whitespace()))
    }

    /// A command that will run inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs a line of plain words inside, to its end.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command")?;
        run(self.command(program).args(words))
    }

    /// Calls `act` in a thread that stands inside: sockets that it opens belong here.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let handle = self.handle()?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(handle, CloneFlags::CLONE_NEWNET).context("setns")?;
                act()
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread that stands inside and outlives the call.
    pub fn spawn<T: Send + 'static>(
        &self,
        act: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let handle = self.handle()?;
        Ok(thread::spawn(move || {
            setns(handle, CloneFlags::CLONE_NEWNET).context("setns")?;
            Ok(act())
        }))
    }

    /// Sets one of the namespace's own sysctls (`net.…`).
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        let value = value.to_owned();
        self.enter(move || std::fs::write(&path, value).with_context(|| path.clone()))
            .with_context(|| format!("{}: sysctl {key}", self.name))
    }

    /// The hardware address of an interface.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        let text = self.ip(&format!("-j link show dev {interface}"))?;
        let links: serde_json::Value = serde_json::from_str(&text)?;
        let text = links[0]["address"].as_str().context("no address")?;
        let mut mac = [0; 6];
        for (byte, hex) in mac.iter_mut().zip(text.split(':')) {
            *byte = u8::from_str_radix(hex, 16)?;
        }
        Ok(mac)
    }

    fn handle(&self) -> Result<File> {
        let path = format!("/run/netns/{}", self.name);
        File::open(&path).with_context(|| format!("no namespace at {path}"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = remove(&self.name)
        {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Ends what runs in the namespace `name` and removes it.
pub fn remove(name: &str) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(5);
    loop {
        let text = run(Command::new("ip").args(["netns", "pids", name]))?;
        let pids: Vec<i32> = text.lines().filter_map(|pid| pid.parse().ok()).collect();
        if pids.is_empty() || Instant::now() > until {
            break;
        }
        for pid in pids {
            // It may have ended by itself in between.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        thread::sleep(Duration::from_millis(20));
    }
    run(Command::new("ip").args(["netns", "del", name])).map(drop)
}
