//! A network namespace that ends with the thread that is in it: nothing to clean up, also after a
//! panic.

use std::future::Future;
use std::process::Command;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;

use host::Netlink;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;

/// Runs `body` in a new thread, in a new network namespace with `lo` up.
pub fn inside<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (root?)");
                run("ip link set lo up");
                body()
            })
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// As [`inside`], for what needs netlink.
pub fn with_netlink<T, F>(body: impl FnOnce(Netlink) -> F + Send) -> T
where
    T: Send,
    F: Future<Output = T>,
{
    inside(|| block_on(async { body(Netlink::open().expect("netlink")).await }))
}

/// Runs a future on this thread alone, so that it stays in this namespace.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// Runs a command in this thread's namespace and returns what it says.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a command"))
        .args(words)
        .output()
        .expect(command);
    assert!(
        output.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a namespace of its own, which does what it is told until this value is dropped.
pub struct Namespace {
    /// The thread's id, by which `ip link set ... netns` finds the namespace.
    pub tid: i32,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Namespace {
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (told, tid) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace (root?)");
            told.send(gettid().as_raw()).expect("somebody waits");
            for job in queue {
                job();
            }
        });
        Self {
            tid: tid.recv().expect("the thread's id"),
            jobs: Some(jobs),
            thread: Some(thread),
        }
    }

    /// Starts a job there; its result comes by the channel.
    pub fn start<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Receiver<T> {
        let (done, result) = mpsc::channel();
        let job = Box::new(move || {
            done.send(job()).expect("somebody waits");
        });
        self.jobs.as_ref().expect("alive").send(job).expect("alive");
        result
    }

    /// Runs commands there.
    pub fn run(&self, commands: &'static [&'static str]) {
        self.start(move || commands.iter().for_each(|command| drop(run(command))))
            .recv()
            .expect("done");
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let failed = thread.join().is_err();
            assert!(!failed || std::thread::panicking(), "a job panicked");
        }
    }
}
