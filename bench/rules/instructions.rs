//! Instructions of the whole way, counted by callgrind: it needs no counters of the processor,
//! and its figures do not depend on what else the machine does.

use std::env::current_exe;
use std::io::ErrorKind;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::rulesets::Shape;
use crate::ways::Way;

/// Packets of the counted run: callgrind is slow, and steady.
const PACKETS: u32 = 2000;

/// Instructions for each new flow. Runs this program once more, under callgrind.
pub fn count(shape: Shape, way: Way, rules: u32) -> Result<f64> {
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg("--toggle-collect=*carry_first_packets*")
        .arg(current_exe()?)
        .args(["--shape", shape.name(), "--way", way.name()])
        .args(["--once", &rules.to_string()])
        .args(["--packets", &PACKETS.to_string()])
        .stdin(Stdio::null());
    let ran = command.output().map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            anyhow::anyhow!("there is no valgrind: install it, or leave --instructions out")
        }
        _ => error.into(),
    })?;
    let said = String::from_utf8_lossy(&ran.stderr);
    ensure!(ran.status.success(), "under callgrind: {}", said.trim());
    Ok(collected(&said)? / f64::from(PACKETS))
}

/// Reads what callgrind says at its end.
fn collected(said: &str) -> Result<f64> {
    let figure = said
        .lines()
        .find_map(|line| line.split_once("Collected : "))
        .and_then(|(_, figure)| figure.trim().parse::<f64>().ok())
        .with_context(|| format!("callgrind tells no count: {}", said.trim()))?;
    ensure!(
        figure > 0.0,
        "callgrind did not find what to count: is the program stripped?"
    );
    Ok(figure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_among_what_callgrind_says() {
        let said = "==7== Events    : Ir\n==7== Collected : 1234000\n==7== \n";
        assert_eq!(collected(said).unwrap(), 1_234_000.0);
        assert!(collected("==7== Collected : 0\n").is_err());
        assert!(collected("killed").is_err());
    }
}
