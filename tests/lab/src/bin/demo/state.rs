//! What a demo left, in a file, so that another run can remove it.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use lab::{Lab, namespace};
use serde::{Deserialize, Serialize};

/// One demo at a time on a machine.
const FILE: &str = "/run/xtproxy-demo.json";

#[derive(Serialize, Deserialize)]
struct State {
    pid: u32,
    kept: bool,
    namespaces: Vec<String>,
    dir: PathBuf,
}

/// Refuses while another demo stands; removes what a broken one left.
pub fn make_room() -> Result<()> {
    match read()? {
        None => Ok(()),
        Some(state) if state.kept => bail!("an earlier demo still stands: make demo-clean"),
        Some(state) if Path::new("/proc").join(state.pid.to_string()).exists() => {
            bail!("another demo runs, with process id {}", state.pid)
        }
        Some(state) => remove(&state),
    }
}

/// Notes what a demo has made.
pub fn write(lab: &Lab) -> Result<()> {
    save(lab, false)
}

/// Notes that it is meant to stay.
pub fn keep(lab: &Lab) -> Result<()> {
    save(lab, true)
}

/// Notes that nothing is left.
pub fn forget() -> Result<()> {
    fs::remove_file(FILE).with_context(|| FILE.to_owned())
}

/// Removes what an earlier demo left.
pub fn clean() -> Result<()> {
    match read()? {
        None => println!("no demo to remove"),
        Some(state) => {
            remove(&state)?;
            println!(
                "removed {} and {}",
                state.namespaces.join(", "),
                state.dir.display()
            );
        }
    }
    Ok(())
}

fn save(lab: &Lab, kept: bool) -> Result<()> {
    let namespaces = lab.namespaces().into_iter();
    let state = State {
        pid: std::process::id(),
        kept,
        namespaces: namespaces.map(|n| n.name().to_owned()).collect(),
        dir: lab.dir().to_owned(),
    };
    fs::write(FILE, serde_json::to_vec(&state)?).with_context(|| FILE.to_owned())
}

fn read() -> Result<Option<State>> {
    match fs::read(FILE) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).context(FILE)?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).context(FILE),
    }
}

fn remove(state: &State) -> Result<()> {
    for name in &state.namespaces {
        if Path::new("/run/netns").join(name).exists() {
            namespace::remove(name)?;
        }
    }
    if state.dir.exists() {
        fs::remove_dir_all(&state.dir).with_context(|| state.dir.display().to_string())?;
    }
    forget()
}
