//! `xtproxyd` on the firewall, and `xtproxy` to ask it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::command::{built, output, run};
use crate::program::{PATIENCE, Program};
use crate::topology::Lab;

/// How the firewall's cards are bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// The best that binds: on a virtual card a native program, and copies.
    Auto,
    /// The program runs on the kernel's own packets.
    Generic,
}

/// A configuration of the daemon.
#[derive(Clone, Debug)]
pub struct Config {
    /// The rules.
    pub ruleset: String,
    /// How the cards are bound.
    pub mode: Mode,
    /// More lines for the top of the file.
    pub top: String,
    /// The tables of zones and services, where the usual ones are not wanted.
    pub zones: Option<String>,
    /// More tables for its end.
    pub tables: String,
}

impl Config {
    /// Cards eth1 and eth2 with the zones intra and inter, and these rules.
    pub fn new(mode: Mode, ruleset: impl Into<String>) -> Self {
        Config {
            ruleset: ruleset.into(),
            mode,
            top: String::new(),
            zones: None,
            tables: String::new(),
        }
    }

    /// The configuration file.
    pub fn to_toml(&self, lab: &Lab) -> String {
        let mode = match self.mode {
            Mode::Auto => "auto",
            Mode::Generic => "generic",
        };
        let mut ports = vec![("eth1", "intra"), ("eth2", "inter")];
        ports.extend(lab.dmz.is_some().then_some(("eth3", "dmz")));
        let mut text = format!("runtime_dir = {:?}\n", runtime_dir(lab));
        text += "ruleset = \"iptables.conf\"\n";
        text += &self.top;
        for (interface, zone) in ports {
            let _ = write!(
                text,
                "\n[[port]]\ninterface = \"{interface}\"\nzone = \"{zone}\"\nmode = \"{mode}\"\n"
            );
        }
        text += &self.zones.clone().unwrap_or_else(|| usual_zones(lab));
        text + &self.tables
    }

    /// Writes the configuration and the rules into the lab's folder.
    pub fn write(&self, lab: &Lab) -> Result<PathBuf> {
        let path = lab.dir().join("xtproxyd.toml");
        fs::write(&path, self.to_toml(lab))?;
        fs::write(lab.dir().join("iptables.conf"), &self.ruleset)?;
        Ok(path)
    }
}

fn usual_zones(lab: &Lab) -> String {
    let mut zones = vec![("intra", "192.168.1.0/24"), ("inter", "198.51.100.0/24")];
    zones.extend(lab.dmz.is_some().then_some(("dmz", "10.0.0.0/24")));
    zones
        .iter()
        .fold(String::new(), |mut text, (name, network)| {
            let _ = write!(text, "\n[zone.{name}]\nnetworks = [\"{network}\"]\n");
            text
        })
}

/// The daemon's folder in this lab.
pub fn runtime_dir(lab: &Lab) -> PathBuf {
    lab.dir().join("run")
}

/// Runs `xtproxyd --config FILE ARGS` to its end, on the firewall.
pub fn run_daemon(lab: &Lab, config: &Path, args: &[&str]) -> Result<Output> {
    output(daemon_command(lab, config)?.args(args))
}

fn daemon_command(lab: &Lab, config: &Path) -> Result<Command> {
    let mut command = lab.fw.command(built("xtproxyd")?);
    command.arg("--config").arg(config);
    Ok(command)
}

/// A daemon that is, or was, running.
#[derive(Debug)]
pub struct Daemon {
    program: Program,
    config: PathBuf,
    runtime_dir: PathBuf,
    starts: u32,
}

impl Daemon {
    /// Writes the configuration, starts the daemon and waits until it is ready.
    pub fn start(lab: &Lab, config: &Config) -> Result<Self> {
        let config = config.write(lab)?;
        let mut daemon = Daemon {
            program: launch(lab, &config, 1)?,
            config,
            runtime_dir: runtime_dir(lab),
            starts: 1,
        };
        daemon.program.wait_for("ready")?;
        Ok(daemon)
    }

    /// Starts it once more with the same files, and waits until it is ready.
    pub fn start_again(&mut self, lab: &Lab) -> Result<()> {
        ensure!(self.program.ended()?.is_some(), "the daemon still runs");
        self.starts += 1;
        self.program = launch(lab, &self.config, self.starts)?;
        self.program.wait_for("ready").map(drop)
    }

    /// Asks it to leave, and waits.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.program.end(Signal::SIGTERM)
    }

    /// Kills it, and waits until it is gone.
    pub fn crash(&mut self) -> Result<ExitStatus> {
        self.program.end(Signal::SIGKILL)
    }

    /// Fails, with the log, when it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.program.ended()? {
            None => Ok(()),
            Some(status) => bail!("the daemon ended ({status}):\n{}", self.log()),
        }
    }

    /// Undoes what it changed on the box: `xtproxyd --detach`.
    pub fn detach(&self, lab: &Lab) -> Result<Output> {
        run_daemon(lab, &self.config, &["--detach"])
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        let log = self.program.stderr() + &self.program.stdout();
        let from = log.lines().count().saturating_sub(40);
        log.lines().skip(from).fold(String::new(), |mut out, line| {
            let _ = writeln!(out, "  {line}");
            out
        })
    }

    /// The guard of its process.
    pub fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    /// Its configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// What `xtproxy ARGS` prints.
    pub fn ask(&self, args: &[&str]) -> Result<String> {
        run(self.control()?.args(args))
    }

    /// What `xtproxy --json ARGS` prints.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let text = run(self.control()?.arg("--json").args(args))?;
        serde_json::from_str(&text).with_context(|| format!("xtproxy --json {args:?}: {text}"))
    }

    /// The flows that `filter` selects.
    pub fn flows(&self, filter: &[&str]) -> Result<Vec<Value>> {
        let document = self.json(&[&["flows", "list"], filter].concat())?;
        let list = document.as_array().or_else(|| document["flows"].as_array());
        list.cloned().context("flows list is no list")
    }

    /// How often frames were dropped for `reason`.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        let stats = self.json(&["stats"])?;
        let drops = stats["drops"].as_array().into_iter().flatten();
        let count = drops
            .filter(|drop| drop["reason"] == reason)
            .find_map(|drop| drop["packets"].as_u64());
        count.with_context(|| format!("stats know no drop reason {reason}: {stats}"))
    }

    /// The counter `name` of each worker, in their order.
    pub fn counters(&self, name: &str) -> Result<Vec<u64>> {
        let stats = self.json(&["stats"])?;
        let workers = stats["workers"].as_array().into_iter().flatten();
        let counts = workers.map(|worker| worker["counters"][name].as_u64());
        let counts: Option<Vec<u64>> = counts.collect();
        counts
            .filter(|counts| !counts.is_empty())
            .with_context(|| format!("workers have no counter {name}: {stats}"))
    }

    /// Waits until `holds` says so about this daemon.
    pub fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !holds(self)? {
            ensure!(Instant::now() < until, "in vain waited until {what}");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Fails unless every worker knows where each of its frames is. Frames in a worker's
    /// hands are in no ledger, so a busy moment is looked at again.
    pub fn check_frames(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let stats = self.json(&["stats"])?;
            match conserved(&stats) {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// `xtproxy`, to be told what to ask.
    pub fn control(&self) -> Result<Command> {
        let mut command = Command::new(built("xtproxy")?);
        command.arg("--runtime-dir").arg(&self.runtime_dir);
        Ok(command)
    }
}

fn launch(lab: &Lab, config: &Path, start: u32) -> Result<Program> {
    let command = daemon_command(lab, config)?;
    Program::start(lab.dir(), &format!("xtproxyd-{start}"), command)
}

/// Whether each worker's frames add up to their total. The one place that knows the ledger.
fn conserved(stats: &Value) -> Result<()> {
    let workers = stats["workers"].as_array().context("stats lack workers")?;
    ensure!(!workers.is_empty(), "stats list no worker");
    for worker in workers {
        let frames = worker["frames"].as_object();
        let frames = frames.context("a worker has no frame ledger")?;
        let total = frames.get("total").and_then(Value::as_u64);
        let total = total.context("a frame ledger has no total")?;
        let parts = frames.iter().filter(|(name, _)| *name != "total");
        let sum: u64 = parts.filter_map(|(_, count)| count.as_u64()).sum();
        let ledger = &worker["frames"];
        ensure!(total > 0, "a worker has no frames: {ledger}");
        ensure!(sum == total, "{sum} of {total} frames are known: {ledger}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_lost_frame_is_noticed() {
        let stats = |free: u64| json!({"workers": [{"frames": {"total": 9, "free": free, "filled": 4, "sending": 0}}]});
        assert!(conserved(&stats(5)).is_ok());
        assert!(conserved(&stats(4)).is_err());
        assert!(conserved(&stats(6)).is_err());
        assert!(conserved(&json!({"workers": []})).is_err());
        assert!(conserved(&json!({"workers": [{}]})).is_err());
    }
}
