//! `lab-without xdp PROGRAM ARGS...`: runs a program on a kernel that seems to lack AF_XDP.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

fn main() -> ExitCode {
    let Err(error) = run();
    eprintln!("lab-without: {error:#}");
    ExitCode::from(2)
}

fn run() -> Result<std::convert::Infallible> {
    let mut words = std::env::args_os().skip(1);
    if words.next().as_deref() != Some("xdp".as_ref()) {
        bail!("usage: lab-without xdp PROGRAM ARGS...");
    }
    let program = words.next().context("which program?")?;
    lab::seccomp::forbid_xdp_sockets()?;
    Err(Command::new(&program).args(words).exec())
        .with_context(|| format!("cannot run {}", program.display()))
}
