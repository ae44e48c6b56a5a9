//! Listening sockets in the runtime directory.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::Error;

/// A listening socket; its file goes with it.
pub(crate) struct Listening {
    listener: UnixListener,
    path: PathBuf,
    /// The file's inode, so that a successor's file is left alone.
    inode: u64,
}

impl Listening {
    /// Makes the socket under another name and moves it in place when its mode is right:
    /// no moment with a wrong mode, none without a socket.
    pub(crate) fn bind(path: &Path, mode: u32) -> Result<Self, Error> {
        if fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_socket()) {
            return Err(Error::Occupied {
                path: path.to_owned(),
            });
        }
        Self::create(path, mode).map_err(|source| Error::Socket {
            path: path.to_owned(),
            source,
        })
    }

    fn create(path: &Path, mode: u32) -> io::Result<Self> {
        let unfinished = path.with_extension("new");
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&unfinished)?;
        listener.set_nonblocking(true)?;
        fs::set_permissions(&unfinished, Permissions::from_mode(mode))?;
        let inode = fs::symlink_metadata(&unfinished)?.ino();
        fs::rename(&unfinished, path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            inode,
        })
    }

    /// The socket for the runtime that this is called in.
    pub(crate) fn listener(&self) -> io::Result<tokio::net::UnixListener> {
        tokio::net::UnixListener::from_std(self.listener.try_clone()?)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|file| file.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Waits after a failed accept: most likely no file descriptor is left, and trying again
/// at once would spin.
pub(crate) async fn rest_after(error: &io::Error) {
    tracing::warn!("control sockets: accept: {error}");
    tokio::time::sleep(Duration::from_millis(50)).await;
}
