//! The project's example proxies, on the firewall.

use std::net::SocketAddrV4;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::command::built;
use crate::program::{PATIENCE, Program};
use crate::topology::Lab;

/// A running relay, or another of the examples with the same manners.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub address: SocketAddrV4,
    program: Program,
}

impl Relay {
    /// Starts a relay at `address` of the firewall and waits until it listens.
    pub fn start(lab: &Lab, address: SocketAddrV4) -> Result<Self> {
        Self::start_as(lab, "relay", address, &[])
    }

    /// The same of the example `program`, with more `options`.
    pub fn start_as(
        lab: &Lab,
        program: &str,
        address: SocketAddrV4,
        options: &[&str],
    ) -> Result<Self> {
        let mut command = lab.fw.command(built(&format!("examples/{program}"))?);
        command.args(["--listen", &address.to_string(), "--runtime-dir"]);
        command.arg(lab.dir().join("run")).args(options);
        let name = format!("{program}-{}-{}", address.ip(), address.port());
        let mut relay = Relay {
            address,
            program: Program::start(lab.dir(), &name, command)?,
        };
        relay.wait_listening(lab)?;
        Ok(relay)
    }

    /// All that it printed.
    pub fn log(&self) -> String {
        self.program.stdout() + &self.program.stderr()
    }

    /// The lines of its log that name `text`.
    pub fn lines(&self, text: &str) -> Vec<String> {
        let log = self.log();
        let lines = log.lines().filter(|line| line.contains(text));
        lines.map(str::to_owned).collect()
    }

    /// Waits for a log line with all of `words`: the relay tells of a connection at its end.
    pub fn wait_line(&self, words: &[&str]) -> Result<String> {
        let until = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            let mut lines = log.lines();
            if let Some(line) = lines.find(|line| words.iter().all(|word| line.contains(word))) {
                return Ok(line.to_owned());
            }
            if Instant::now() > until {
                bail!(
                    "the relay at {} tells nothing of {words:?}:\n{log}",
                    self.address
                );
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The guard of its process.
    pub fn program(&mut self) -> &mut Program {
        &mut self.program
    }

    fn wait_listening(&mut self, lab: &Lab) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let listening = lab.fw.run("ss -Htln")?;
            if listening.contains(&self.address.to_string()) {
                return Ok(());
            }
            if self.program.ended()?.is_some() || Instant::now() > until {
                bail!("no relay listens at {}: {}", self.address, self.log());
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}
