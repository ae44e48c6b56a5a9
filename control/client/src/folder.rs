//! The daemon's folder, and the way to its socket when the path leads there no more.
//!
//! A program that has changed its root, or its working directory, has lost the path. So the
//! folder is held open, and the socket is connected to from a thread that stands in it.
//!
//! Invariants: no lock; root and working directory of the process are never touched; a number
//! that the program has closed and used again is taken for no folder.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use arc_swap::ArcSwapOption;
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, SigmaskHow};
use protocol::CLIENT_SOCKET;
use rustix::fs::{CWD, Mode, OFlags, Stat, fstat, openat, stat};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::fchdir;

use crate::blocking::limited;
use crate::descriptor::above_standard;
use crate::{Error, Result};

/// A daemon's folder.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    socket: PathBuf,
    held: ArcSwapOption<Held>,
}

impl Folder {
    /// Holds it from now on, if it is there; or else from when it is first found.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            socket: path.join(CLIENT_SOCKET),
            held: ArcSwapOption::from(Held::open(path).ok().map(Arc::new)),
        }
    }

    /// The socket in it, for messages.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The descriptor that holds it.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.held.load().as_ref().map(|held| held.fd.as_raw_fd())
    }

    /// Connects to the daemon, with a limit to its silence.
    pub fn connect(&self) -> Result<UnixStream> {
        let held = self.held.load_full();
        let state = held.as_ref().map_or(State::Unknown, |held| held.state());
        let is_at_path = match (&held, state) {
            (Some(held), State::There) => stat(&self.path).is_ok_and(|now| held.is(&now)),
            _ => false,
        };
        // What the path leads to now may be somebody else's: the folder itself goes first.
        let mut refused = None;
        if let (Some(held), State::There, false) = (&held, state, is_at_path) {
            match held.connect() {
                Ok(stream) => return limited(stream, &self.socket),
                Err(error) => refused = Some(error),
            }
        }
        match UnixStream::connect(&self.socket) {
            Ok(stream) => {
                if !is_at_path {
                    self.hold_anew(state);
                }
                limited(stream, &self.socket)
            }
            Err(source) if source.kind() == io::ErrorKind::NotFound && state == State::Removed => {
                let socket = self.socket.clone();
                Err(Error::FolderGone { socket, source })
            }
            Err(source) => {
                let source = refused.unwrap_or(source);
                Err(Error::connecting(&self.socket, source))
            }
        }
    }

    /// Holds what is at the path now in the place of a folder that is in this state.
    fn hold_anew(&self, state: State) {
        let Ok(found) = Held::open(&self.path) else {
            return;
        };
        let before = self.held.swap(Some(Arc::new(found)));
        if state == State::Unknown {
            // The number is not ours to close any more.
            std::mem::forget(before);
        }
    }
}

/// What has become of a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// It is somewhere.
    There,
    /// It was removed; one that was made since is another.
    Removed,
    /// Nobody knows: it is not held.
    Unknown,
}

/// A folder that is held.
#[derive(Debug)]
struct Held {
    fd: OwnedFd,
    device: u64,
    inode: u64,
}

impl Held {
    /// Who may (`CAP_SYS_ADMIN`) holds it as a mount of its own, above which there is nothing: a
    /// folder of the old root would be a way out of a new one. Who may not seldom may `chroot`.
    fn open(path: &Path) -> io::Result<Self> {
        let alone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let fd = open_tree(CWD, path, alone).or_else(|_| {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            openat(CWD, path, flags, Mode::empty())
        })?;
        let fd = above_standard(fd)?;
        let Stat { st_dev, st_ino, .. } = fstat(&fd)?;
        Ok(Self {
            fd,
            device: st_dev,
            inode: st_ino,
        })
    }

    fn is(&self, found: &Stat) -> bool {
        (found.st_dev, found.st_ino) == (self.device, self.inode)
    }

    fn state(&self) -> State {
        match fstat(&self.fd) {
            Ok(now) if !self.is(&now) => State::Unknown,
            Ok(now) if now.st_nlink == 0 => State::Removed,
            Ok(_) => State::There,
            Err(_) => State::Unknown,
        }
    }

    /// Connects to the socket in it: Linux has no `connectat`.
    fn connect(&self) -> io::Result<UnixStream> {
        self.connect_from_within().unwrap_or_else(|_| {
            // No thread, or none may leave the others (seccomp). This way needs /proc.
            let number = self.fd.as_raw_fd();
            UnixStream::connect(format!("/proc/self/fd/{number}/{CLIENT_SOCKET}"))
        })
    }

    /// The same by a thread that has a working directory of its own. The outer error says that
    /// there is no such thread.
    fn connect_from_within(&self) -> io::Result<io::Result<UnixStream>> {
        let connect = || {
            unshare(CloneFlags::CLONE_FS)?;
            fchdir(&self.fd)?;
            Ok(UnixStream::connect(CLIENT_SOCKET))
        };
        thread::scope(|scope| {
            // The program's signals are for the program's threads.
            let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
            let started = thread::Builder::new().spawn_scoped(scope, connect);
            before.thread_set_mask()?;
            let ended = started?.join();
            ended.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        })
    }
}
