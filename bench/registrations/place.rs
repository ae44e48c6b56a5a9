//! On which cores the client's thread and the daemon's thread for it run. It decides most of a
//! round trip: to wake a thread on an idle core takes longer than all the rest.

use std::fs;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// What the daemon calls its threads for clients.
const THREAD: &str = "client";

/// Who runs where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// As the scheduler likes.
    Anywhere,
    /// Both on one core.
    Together,
    /// Each on a core of its own.
    Apart,
}

/// All of them.
pub const PLACES: [Place; 3] = [Place::Anywhere, Place::Together, Place::Apart];

impl Place {
    /// How the report puts it.
    pub fn name(self) -> &'static str {
        match self {
            Place::Anywhere => "",
            Place::Together => ", one core",
            Place::Apart => ", two cores",
        }
    }
}

/// The calling thread and the daemon's, to be put somewhere; freed again on drop.
pub struct Places {
    cores: CpuSet,
    first: usize,
    second: Option<usize>,
    served_by: Vec<Pid>,
}

impl Places {
    /// Looks for the threads of the daemon that serve clients now.
    pub fn new(daemon: Pid) -> Result<Self> {
        let here = Pid::from_raw(0);
        let cores = sched_getaffinity(here)?;
        let mut usable = (0..CpuSet::count()).filter(|core| cores.is_set(*core) == Ok(true));
        let first = usable.next().context("no core")?;
        let mut served_by = Vec::new();
        for task in fs::read_dir(format!("/proc/{daemon}/task"))? {
            let task = task?;
            let name = fs::read_to_string(task.path().join("comm"));
            // One that ends meanwhile has no name.
            if name.is_ok_and(|name| name.trim() == THREAD) {
                let id = task.file_name().to_string_lossy().parse()?;
                served_by.push(Pid::from_raw(id));
            }
        }
        ensure!(
            !served_by.is_empty(),
            "the daemon has no thread `{THREAD}` for this client"
        );
        Ok(Places {
            cores,
            first,
            second: usable.next(),
            served_by,
        })
    }

    /// Puts them there; false if this machine has too few cores.
    pub fn put(&self, place: Place) -> Result<bool> {
        let (client, server) = match (place, self.second) {
            (Place::Anywhere, _) => (self.cores, self.cores),
            (Place::Together, _) => (only(self.first)?, only(self.first)?),
            (Place::Apart, Some(second)) => (only(self.first)?, only(second)?),
            (Place::Apart, None) => return Ok(false),
        };
        sched_setaffinity(Pid::from_raw(0), &client)?;
        for thread in &self.served_by {
            sched_setaffinity(*thread, &server)?;
        }
        Ok(true)
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let _ = self.put(Place::Anywhere);
    }
}

fn only(core: usize) -> Result<CpuSet, Errno> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    Ok(cores)
}
