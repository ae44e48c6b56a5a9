//! CPU time and cycles of processes, as `perf stat` counts them from outside.

use std::fmt;
use std::io::{ErrorKind, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

/// How long it counts.
const SECONDS: u32 = 1;
/// How long it may take at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// Calls between two looks at whether it is done.
const BATCH: u32 = 50;

/// A `perf stat` that counts; ended on drop.
pub struct Perf {
    child: Child,
    start: Instant,
}

/// What one call cost, all processes together.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Counted {
    /// CPU time in microseconds.
    pub cpu_us: f64,
    /// Cycles, where the machine has a counter for them.
    pub cycles: Option<f64>,
}

impl Perf {
    /// Begins to count for these processes; `None` if there is no perf.
    pub fn start(pids: &[Pid]) -> Result<Option<Self>> {
        let pids: Vec<String> = pids.iter().map(Pid::to_string).collect();
        let mut command = Command::new("perf");
        command.args(["stat", "-x", ";", "-e", "task-clock,cycles"]);
        command.args(["-p", &pids.join(","), "--", "sleep", &SECONDS.to_string()]);
        command.env("LC_ALL", "C").stdin(Stdio::null());
        let started = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        match started {
            Ok(child) => Ok(Some(Perf {
                child,
                start: Instant::now(),
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Has calls made for as long as it counts. `call` makes so many and tells the time of one.
    pub fn while_calling(mut self, call: impl Fn(u32) -> Result<Duration>) -> Result<Counted> {
        let mut calls = 0;
        while self.child.try_wait()?.is_none() {
            ensure!(self.start.elapsed() < PATIENCE, "perf does not end");
            call(BATCH)?;
            calls += u64::from(BATCH);
        }
        let per_second = calls as f64 / self.start.elapsed().as_secs_f64();
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut said)?;
        }
        ensure!(self.child.wait()?.success(), "perf: {}", said.trim());
        Counted::parse(&said, per_second * f64::from(SECONDS))
    }
}

impl Drop for Perf {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Counted {
    /// Reads what `perf stat -x ';'` says, while there were so many calls.
    fn parse(said: &str, calls: f64) -> Result<Self> {
        let value = |event: &str| {
            said.lines().find_map(|line| {
                let mut words = line.split(';');
                let value = words.next()?.parse::<f64>().ok()?;
                // What runs as a user may see its own mode only, and is told so: `cycles:u`.
                words.nth(1)?.starts_with(event).then_some(value)
            })
        };
        let cpu_ms =
            value("task-clock").with_context(|| format!("perf did not count: {}", said.trim()))?;
        ensure!(calls > 0.0, "no call was made while perf counted");
        Ok(Counted {
            cpu_us: cpu_ms * 1e3 / calls,
            cycles: value("cycles").map(|cycles| cycles / calls),
        })
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>8.2} us of CPU", self.cpu_us)?;
        match self.cycles {
            Some(cycles) => write!(f, ", {cycles:.0} cycles"),
            None => write!(f, ", no counter of cycles on this machine"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_shared_among_the_calls() {
        let said = "500.0;msec;task-clock;500000000;100.00;0.5;CPUs utilized\n\
            1500000000;;cycles:u;500000000;100.00;3.0;GHz\n";
        let counted = Counted::parse(said, 2000.0).unwrap();
        assert_eq!((counted.cpu_us, counted.cycles), (250.0, Some(750_000.0)));
        assert!(counted.to_string().ends_with("750000 cycles"));
    }

    #[test]
    fn a_machine_without_counters_is_told() {
        let said = "9.5;msec;task-clock;1;100.00;;\n<not supported>;;cycles;0;100.00;;\n";
        let counted = Counted::parse(said, 10.0).unwrap();
        assert_eq!(counted.cycles, None);
        assert!(Counted::parse("no permission", 10.0).is_err());
    }
}
