//! On which machine, and when.

use std::fs;
use std::process::Command;

use anyhow::Result;
use lab::command::run;

/// One line: the day, kernel, cores and load.
pub fn describe() -> Result<String> {
    let day = run(Command::new("date").args(["-u", "+%F"]))?;
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown processor", |(_, name)| name);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<&str> = load.split(' ').take(3).collect();
    Ok(format!(
        "{} Linux {}, {cores} cores of {model}, load {}",
        day.trim(),
        release.trim(),
        load.join(" ")
    ))
}
