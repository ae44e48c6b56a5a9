//! Small C programs of a test: compiled when it runs, on the firewall with or without the
//! preload shim.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{built, run};
use crate::daemon::runtime_dir;
use crate::topology::Lab;

/// Compiles the C source at `path` into the lab's folder; `include` is where its headers are.
pub fn compile(lab: &Lab, path: &Path, include: &Path) -> Result<PathBuf> {
    let name = path.file_stem().context("a source without a name")?;
    let program = lab.dir().join(name);
    let mut command = Command::new("cc");
    command.args([
        "-std=gnu11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-pthread",
    ]);
    command
        .arg("-I")
        .arg(include)
        .arg("-o")
        .arg(&program)
        .arg(path);
    run(&mut command)?;
    Ok(program)
}

/// `program` on the firewall, with the lab's daemon for what it finds by itself.
pub fn bare(lab: &Lab, program: &Path) -> Command {
    let mut command = lab.fw.command("env");
    let runtime = format!("XTPROXY_RUNTIME_DIR={}", runtime_dir(lab).display());
    command.arg(runtime).arg(program);
    command
}

/// The same under the preload shim: `env` sets it, so that nothing else gets it.
pub fn preloaded(lab: &Lab, program: &Path) -> Result<Command> {
    let mut command = lab.fw.command("env");
    let runtime = format!("XTPROXY_RUNTIME_DIR={}", runtime_dir(lab).display());
    let shim = built("libxtproxy_preload.so")?;
    command.arg(runtime);
    command.arg(format!("LD_PRELOAD={}", shim.display()));
    command.arg(program);
    Ok(command)
}
