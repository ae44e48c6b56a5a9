//! Another process: this program again, in the test that starts it.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus, Stdio};

use crate::PATIENCE;

const ROLE: &str = "XTPROXY_TEST_ROLE";

/// What the child has to do, if this is the child. It talks to its parent by what is its
/// standard input.
pub fn role() -> Option<UnixStream> {
    std::env::var_os(ROLE)?;
    let channel = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    Some(UnixStream::from(channel))
}

/// A process that ends with its owner at the latest.
pub struct Process {
    child: Child,
    channel: UnixStream,
}

impl Process {
    /// Runs a test of this program as a child, by a command that may stand before it.
    pub fn start(test: &str, prefix: &[&str]) -> Self {
        let (channel, theirs) = UnixStream::pair().unwrap();
        channel.set_read_timeout(Some(PATIENCE)).unwrap();
        let program = std::env::current_exe().unwrap();
        let program = program.to_str().unwrap();
        let words = [prefix, &[program, "--exact", test, "--nocapture"]].concat();
        let child = Command::new(words[0])
            .args(&words[1..])
            .env(ROLE, "child")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, channel }
    }

    /// `sleep`, which holds a descriptor and does nothing with it.
    pub fn holding(socket: OwnedFd) -> Self {
        let (channel, _) = UnixStream::pair().unwrap();
        let child = Command::new("sleep")
            .arg("600")
            .stdin(socket)
            .spawn()
            .unwrap();
        Self { child, channel }
    }

    pub fn number(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.channel.read_exact(&mut bytes).unwrap();
        u64::from_ne_bytes(bytes)
    }

    pub fn say(&mut self, number: u64) {
        self.channel.write_all(&number.to_ne_bytes()).unwrap();
    }

    pub fn go(&mut self) {
        self.channel.write_all(&[1]).unwrap();
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// By SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
