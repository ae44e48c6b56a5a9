//! tcpdump at an endpoint's end of a wire: AF_XDP traffic passes the firewall's own taps unseen.

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::namespace::Namespace;
use crate::program::Program;

/// Kernel buffer of a capture, in KiB: holds a large file at the speed of memory.
const BUFFER_KIB: &str = "262144";

/// tcpdump hands packets over at the latest after one second.
const LAST_PACKETS: Duration = Duration::from_millis(1200);

/// A running capture of what arrives at an interface.
#[derive(Debug)]
pub struct Capture {
    program: Program,
    path: PathBuf,
}

impl Capture {
    /// Starts to write what arrives at `eth0` of `namespace` to a file in `dir`.
    pub fn start(namespace: &Namespace, dir: &Path) -> Result<Self> {
        let name = format!("capture-{}", namespace.name());
        let path = dir.join(format!("{name}.pcap"));
        let mut command = namespace.command("tcpdump");
        // -Q in: what the endpoint itself sends has no checksums yet and is not judged.
        command.args(["-n", "-i", "eth0", "-Q", "in", "-s", "0", "-B", BUFFER_KIB]);
        command.args(["-Z", "root", "-w"]).arg(&path);
        let mut program = Program::start(dir, &name, command)?;
        program.wait_for("listening on")?;
        Ok(Capture { program, path })
    }

    /// Ends the capture, checks that the kernel dropped nothing of it, and returns the file.
    pub fn stop(mut self) -> Result<PathBuf> {
        thread::sleep(LAST_PACKETS);
        let status = self.program.end(Signal::SIGINT)?;
        let said = self.program.stderr();
        ensure!(status.success(), "tcpdump failed: {said}");
        let dropped = dropped(&said).context("tcpdump does not say what it dropped")?;
        let path = self.path.clone();
        ensure!(
            dropped == 0,
            "{dropped} packets are missing in {}: raise BUFFER_KIB",
            path.display()
        );
        Ok(path)
    }
}

/// The number before `packets dropped by kernel`.
fn dropped(said: &str) -> Option<u64> {
    let line = said
        .lines()
        .find(|line| line.ends_with("dropped by kernel"))?;
    line.split(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_tcpdump_lost() {
        let said = "9 packets captured\n12 packets received by filter\n3 packets dropped by kernel";
        assert_eq!(dropped(said), Some(3));
        assert_eq!(dropped("9 packets captured"), None);
    }
}
