//! A daemon that says what a test wants: `client.sock` in a folder of its own, and the real
//! channel behind it.

#![allow(dead_code, reason = "no test file needs all of it")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shm::{Reply, Request, ServerEnd};
use tempfile::TempDir;

/// How long a program may take.
const SOON: Duration = Duration::from_secs(30);

type Script = dyn Fn(&Request) -> Reply + Send + Sync;

/// A running one. It ends with this value.
pub struct Daemon {
    dir: Option<TempDir>,
    asked: Arc<Mutex<Vec<Request>>>,
    /// How many channels it has given out.
    channels: Arc<Mutex<usize>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Daemon {
    /// Starts one that answers by this script.
    pub fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), script)
    }

    /// Starts one in a given folder.
    pub fn start_in(
        dir: TempDir,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let socket = dir.path().join("client.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        // For everybody, as the real one's.
        let allow =
            |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode));
        allow(dir.path(), 0o755).unwrap();
        allow(&socket, 0o666).unwrap();
        listener.set_nonblocking(true).unwrap();
        let asked = Arc::<Mutex<Vec<Request>>>::default();
        let channels = Arc::<Mutex<usize>>::default();
        let ends = Arc::<AtomicBool>::default();
        let thread = thread::spawn({
            let (asked, channels, ends) = (asked.clone(), channels.clone(), ends.clone());
            let script: Arc<Script> = Arc::new(script);
            move || accept(&listener, &script, &asked, &channels, &ends)
        });
        Self {
            dir: Some(dir),
            asked,
            channels,
            ends,
            thread: Some(thread),
        }
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().unwrap().path()
    }

    /// Ends it, and leaves its folder without a socket.
    pub fn stop(mut self) -> TempDir {
        std::fs::remove_file(self.dir().join("client.sock")).unwrap();
        self.dir.take().unwrap()
    }

    /// What was asked, and forgets it.
    pub fn asked(&self) -> Vec<Request> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }

    /// How many channels it has given out.
    pub fn channels(&self) -> usize {
        *self.channels.lock().unwrap()
    }

    /// Runs a program under the shim with this daemon, to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> Output {
        finish(command(program, args, Some(self.dir())))
    }

    /// The same; the program must be content and silent on standard error. Its standard output.
    pub fn check(&self, program: &str, args: &[&str]) -> String {
        content(&self.run(program, args))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking(), "the daemon panicked");
        }
    }
}

/// What a content program has printed.
pub fn content(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {told}", output.status);
    assert_eq!(told, "", "a word on standard error");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A program; with a folder, under the shim.
pub fn command(program: &str, args: &[&str], dir: Option<&Path>) -> Command {
    let mut command = Command::new(compiled(program));
    command.args(args).env_remove("XTPROXY_PRELOAD_DEBUG");
    if let Some(dir) = dir {
        command.env("LD_PRELOAD", shim());
        command.env("XTPROXY_RUNTIME_DIR", dir);
    }
    command
}

/// Runs it to its end, which must come soon.
pub fn finish(mut command: Command) -> Output {
    struct Running(Child);
    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    // Files, because nobody reads while it runs.
    let (mut stdout, mut stderr) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    command.stdin(Stdio::null());
    command.stdout(stdout.try_clone().unwrap());
    command.stderr(stderr.try_clone().unwrap());
    let mut running = Running(command.spawn().unwrap());
    let start = Instant::now();
    let status = loop {
        if let Some(status) = running.0.try_wait().unwrap() {
            break status;
        }
        assert!(start.elapsed() < SOON, "{command:?} does not end");
        thread::sleep(Duration::from_millis(2));
    };
    Output {
        status,
        stdout: read(&mut stdout),
        stderr: read(&mut stderr),
    }
}

fn read(file: &mut File) -> Vec<u8> {
    let mut all = Vec::new();
    file.rewind().unwrap();
    file.read_to_end(&mut all).unwrap();
    all
}

/// The library under test: built beside the tests.
pub fn shim() -> PathBuf {
    let shim = std::env::current_exe()
        .unwrap()
        .with_file_name("libxtproxy_preload.so");
    assert!(
        shim.exists(),
        "{} is missing: build the package",
        shim.display()
    );
    shim
}

/// A program of `tests/programs`, compiled once by each test that runs.
fn compiled(program: &str) -> PathBuf {
    static DONE: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("preload-{program}"));
    let mut done = DONE.lock().unwrap_or_else(PoisonError::into_inner);
    if !done.iter().any(|name| name == program) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("tests/programs")
            .join(format!("{program}.c"));
        // Others may be running the one that is there.
        let made = path.with_extension(std::process::id().to_string());
        let mut cc = Command::new("cc");
        cc.args(["-std=gnu11", "-Wall", "-Wextra", "-Werror"]);
        cc.args(["-O1", "-pthread", "-D_FORTIFY_SOURCE=2"]);
        cc.arg("-o").arg(&made).arg(source);
        let built = cc.output().expect("cc is needed: install gcc");
        let told = String::from_utf8_lossy(&built.stderr);
        assert!(built.status.success(), "{told}");
        std::fs::rename(made, &path).unwrap();
        done.push(program.to_owned());
    }
    path
}

fn accept(
    listener: &UnixListener,
    script: &Arc<Script>,
    asked: &Arc<Mutex<Vec<Request>>>,
    channels: &Mutex<usize>,
    ends: &Arc<AtomicBool>,
) {
    let mut serving = Vec::new();
    while !ends.load(Ordering::Relaxed) {
        if let Ok((stream, _)) = listener.accept() {
            *channels.lock().unwrap() += 1;
            let (script, asked, ends) = (script.clone(), asked.clone(), ends.clone());
            serving.push(thread::spawn(move || {
                serve(stream, &*script, &asked, &ends)
            }));
        }
        thread::sleep(Duration::from_millis(1));
    }
    for thread in serving {
        thread.join().unwrap();
    }
}

/// Serves one channel until its client hangs up.
fn serve(stream: UnixStream, script: &Script, asked: &Mutex<Vec<Request>>, ends: &AtomicBool) {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    let mut line = String::new();
    if BufReader::new(&stream).read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let said: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(said["request"], "channel");
    let (mut end, handover) = ServerEnd::create().unwrap();
    handover.send(&stream).unwrap();
    drop(handover);
    while !ends.load(Ordering::Relaxed) {
        let served = end.serve(|request| {
            asked.lock().unwrap().push(*request);
            script(request)
        });
        if served.is_err() {
            return;
        }
        if !end.rest() {
            continue;
        }
        let slice = Timespec::try_from(Duration::from_millis(20)).unwrap();
        let mut fds = [
            PollFd::new(&end, PollFlags::IN),
            PollFd::new(&stream, PollFlags::RDHUP),
        ];
        let _ = poll(&mut fds, Some(&slice));
        if !fds[1].revents().is_empty() {
            return;
        }
    }
}
