//! Programs that are run to their end, and what the lab needs of the machine.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

/// Programs that the lab runs, and the Debian package of each.
const TOOLS: &[(&str, &str)] = &[
    ("ip", "iproute2"),
    ("tc", "iproute2"),
    ("ethtool", "ethtool"),
    ("tcpdump", "tcpdump"),
    ("nginx", "nginx-light"),
    ("curl", "curl"),
    ("vsftpd", "vsftpd"),
    ("lftp", "lftp"),
    ("sshd", "openssh-server"),
    ("ssh", "openssh-client"),
    ("iptables-restore", "iptables"),
    ("cc", "gcc"),
    ("nft", "nftables"),
    ("ping", "iputils-ping"),
    ("setpriv", "util-linux"),
    ("sha256sum", "coreutils"),
];

/// Runs `command` to its end and returns what it printed; what went wrong otherwise.
pub fn run(command: &mut Command) -> Result<String> {
    let output = output(command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    let cause = String::from_utf8_lossy(&output.stderr);
    bail!("{}: {}: {}", line(command), output.status, cause.trim());
}

/// Runs `command` to its end, whatever it says.
pub fn output(command: &mut Command) -> Result<Output> {
    command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", line(command)))
}

/// The command as a person would type it.
pub fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}

/// Fails with one line when this process cannot build a lab.
pub fn require() -> Result<()> {
    static FOUND: OnceLock<Result<(), String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| missing().map_err(|error| error.to_string()));
    found.clone().map_err(anyhow::Error::msg)
}

fn missing() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the lab makes network namespaces: run it as root"
    );
    let mut packages: Vec<&str> = TOOLS
        .iter()
        .filter(|(tool, _)| which(tool).is_none())
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    ensure!(
        packages.is_empty(),
        "the lab lacks programs: apt-get install {}",
        packages.join(" ")
    );
    Ok(())
}

/// Where `tool` is, in PATH or in the folders of the administrator.
fn which(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders
        .map(|folder| folder.join(tool))
        .find(|p| p.is_file())
}

/// Where the project's own program `name` was built: `XTPROXY_BIN`, or the release folder.
pub fn built(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("XTPROXY_BIN") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/release")),
    };
    let path = folder.join(name);
    let path = std::path::absolute(&path).unwrap_or(path);
    ensure!(
        path.is_file(),
        "{} is not built: run `make build`, or set XTPROXY_BIN to its folder",
        path.display()
    );
    Ok(path)
}
