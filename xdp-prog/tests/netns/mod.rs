//! Network namespaces without names: each belongs to a thread and ends with it,
//! panic or not.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use libbpf_rs::{Object, ObjectBuilder, ProgramMut};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

type Job = Box<dyn FnOnce() + Send>;

/// Runs a test in a namespace of its own.
pub fn isolated(test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// A second namespace, whose thread does what it is told.
pub struct Neighbour {
    thread: i32,
    jobs: Option<Sender<Job>>,
    handle: Option<JoinHandle<()>>,
}

impl Neighbour {
    pub fn start() -> Self {
        let (jobs, todo) = channel::<Job>();
        let (tell, told) = channel();
        let handle = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("network namespaces need root");
            tell.send(gettid().as_raw()).unwrap();
            todo.into_iter().for_each(|job| job());
        });
        Self {
            thread: told.recv().unwrap(),
            jobs: Some(jobs),
            handle: Some(handle),
        }
    }

    /// Moves an interface of the caller's namespace over.
    pub fn take(&self, link: &str) {
        run(&format!("ip link set {link} netns {}", self.thread));
    }

    /// Does something over there and waits for what comes of it.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let job = Box::new(move || drop(done.send(job())));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        result.recv().expect("the neighbour's job panicked")
    }

    pub fn commands(&self, commands: &'static [&'static str]) {
        self.run(|| commands.iter().for_each(|command| drop(run(command))));
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(handle) = self.handle.take() {
            drop(handle.join());
        }
    }
}

/// Runs a command that has to work, in the caller's namespace.
pub fn run(command: &str) -> String {
    let mut words = command.split(' ');
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn ifindex(link: &str) -> u32 {
    nix::net::if_::if_nametoindex(link).unwrap_or_else(|e| panic!("{link}: {e}"))
}

pub fn mac(link: &str) -> [u8; 6] {
    let shown = run(&format!("ip -br link show {link}"));
    let word = shown.split_whitespace().nth(2).unwrap();
    let bytes: Vec<u8> = word
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

/// A program of somebody else: section "xdp" or "tc", and the name "stranger".
pub struct Stranger(Object);

impl Stranger {
    pub fn load(section: &str) -> Self {
        let object: PathBuf = std::env::temp_dir().join(format!(
            "xtproxy-stranger-{}-{}.o",
            std::process::id(),
            gettid()
        ));
        let source = format!(
            "__attribute__((section(\"{section}\"),used)) int stranger(void *ctx) {{ return {}; }}",
            if section == "xdp" { 2 } else { -1 }
        );
        let mut clang = Command::new("clang")
            .args(["-O2", "-target", "bpf", "-x", "c", "-c", "-", "-o"])
            .arg(&object)
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut clang.stdin.take().unwrap(), source.as_bytes()).unwrap();
        assert!(clang.wait().unwrap().success());
        let loaded = ObjectBuilder::default()
            .open_file(&object)
            .unwrap()
            .load()
            .unwrap();
        std::fs::remove_file(&object).unwrap();
        Self(loaded)
    }

    pub fn program(&self) -> ProgramMut<'_> {
        self.0.progs_mut().next().unwrap()
    }
}
