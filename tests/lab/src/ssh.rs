//! A real sshd on the firewall, and sessions of its administrator.

use std::fs::{self, Permissions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{output, run};
use crate::namespace::Namespace;
use crate::program::{PATIENCE, Program};

/// sshd at port 22 of every address of its namespace; one key opens it.
#[derive(Debug)]
pub struct SshServer {
    program: Program,
    dir: PathBuf,
}

impl SshServer {
    /// Makes keys and starts sshd inside `namespace`, with its files below `dir`.
    pub fn start(namespace: &Namespace, dir: &Path) -> Result<Self> {
        let dir = dir.join(format!("ssh-{}", namespace.name()));
        fs::create_dir_all(&dir)?;
        fs::set_permissions(&dir, Permissions::from_mode(0o700))?;
        for key in ["host", "admin"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-C", key, "-f"]);
            run(keygen.arg(dir.join(key)))?;
        }
        fs::copy(dir.join("admin.pub"), dir.join("authorized_keys"))?;
        fs::write(dir.join("sshd_config"), config(&dir))?;
        // It insists on a folder below /run; the one that it gets is gone with its mounts.
        let script = "mount -t tmpfs sshd /run && mkdir -m 755 /run/sshd \
                      && exec /usr/sbin/sshd -D -e -f \"$0\"";
        let mut command = namespace.command("sh");
        command.args(["-c", script]).arg(dir.join("sshd_config"));
        let mut program = Program::start(&dir, "sshd", command)?;
        program.wait_for("Server listening on 0.0.0.0 port 22")?;
        let host = fs::read_to_string(dir.join("host.pub"))?;
        fs::write(dir.join("known_hosts"), format!("* {host}"))?;
        Ok(SshServer { program, dir })
    }

    /// `ssh` from inside `namespace`, with the key, to the box at `to`.
    pub fn client(&self, namespace: &Namespace, from: Option<Ipv4Addr>, to: Ipv4Addr) -> Command {
        let mut command = namespace.command("ssh");
        command.args([
            "-F",
            "none",
            "-T",
            "-o",
            "BatchMode=yes",
            "-o",
            "LogLevel=ERROR",
        ]);
        for option in [
            "ConnectTimeout=3",
            "IdentitiesOnly=yes",
            "ConnectionAttempts=1",
        ] {
            command.args(["-o", option]);
        }
        let known = self.dir.join("known_hosts");
        command.args(["-o", &format!("UserKnownHostsFile={}", known.display())]);
        command.arg("-i").arg(self.dir.join("admin"));
        if let Some(from) = from {
            command.args(["-b", &from.to_string()]);
        }
        command.arg(format!("root@{to}"));
        command
    }

    /// Whether the administrator gets in: runs a command there. An error if ssh fails for
    /// another reason than that nobody answers or that it is refused.
    pub fn opens(
        &self,
        namespace: &Namespace,
        from: Option<Ipv4Addr>,
        to: Ipv4Addr,
    ) -> Result<bool> {
        let mut command = self.client(namespace, from, to);
        let said = output(command.args(["echo", "in"]))?;
        if said.status.success() {
            ensure!(said.stdout == b"in\n", "ssh says {said:?}");
            return Ok(true);
        }
        let cause = String::from_utf8_lossy(&said.stderr);
        let is_closed = ["timed out", "refused", "prohibited", "unreachable"];
        if is_closed.iter().any(|why| cause.contains(why)) {
            return Ok(false);
        }
        bail!("ssh to {to}: {}", cause.trim())
    }

    /// An open session; a command runs there that says again what it is told.
    pub fn session(&self, namespace: &Namespace, to: Ipv4Addr) -> Result<Session> {
        let mut command = self.client(namespace, None, to);
        command.arg("cat").stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("ssh")?;
        let input = child.stdin.take().context("no input")?;
        let stdout = child.stdout.take().context("no output")?;
        let (put, words) = channel();
        thread::spawn(move || tell(stdout, |word| put.send(word).is_ok()));
        let mut session = Session {
            child,
            input,
            words,
            told: 0,
        };
        ensure!(session.answers(PATIENCE)?, "no session at {to}");
        Ok(session)
    }

    /// Where it listens on the box's address `ip`.
    pub fn at(ip: Ipv4Addr) -> SocketAddrV4 {
        SocketAddrV4::new(ip, 22)
    }

    /// What sshd said.
    pub fn log(&self) -> String {
        self.program.stderr()
    }
}

/// A session of the administrator; ended by its process id on drop.
#[derive(Debug)]
pub struct Session {
    child: Child,
    input: ChildStdin,
    words: Receiver<String>,
    told: u32,
}

impl Session {
    /// Says a word, and whether the other side says it again within `patience`. What is late
    /// may still come: only the last word counts.
    pub fn answers(&mut self, patience: Duration) -> Result<bool> {
        self.told += 1;
        let word = format!("word {}", self.told);
        writeln!(self.input, "{word}").context("the session has ended")?;
        self.hears(&word, patience)
    }

    /// Whether the last word that was said comes back within `patience`.
    pub fn catches_up(&mut self, patience: Duration) -> Result<bool> {
        let word = format!("word {}", self.told);
        self.hears(&word, patience)
    }

    fn hears(&mut self, word: &str, patience: Duration) -> Result<bool> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.words.recv_timeout(left) {
                Ok(heard) if heard == word => return Ok(true),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout) => return Ok(false),
                Err(RecvTimeoutError::Disconnected) => bail!("the session has ended"),
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tell(mut from: ChildStdout, mut put: impl FnMut(String) -> bool) {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while matches!(from.read(&mut byte), Ok(1)) {
        if byte != *b"\n" {
            line.extend(byte);
        } else if !put(String::from_utf8_lossy(&std::mem::take(&mut line)).into_owned()) {
            return;
        }
    }
}

fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "Port 22\nHostKey {dir}/host\nAuthorizedKeysFile {dir}/authorized_keys\nPidFile none\n\
         StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
         PermitRootLogin yes\nUseDNS no\nPrintMotd no\nClientAliveInterval 0\n\
         MaxStartups 100\n"
    )
}
