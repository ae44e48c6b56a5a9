//! The daemon's own folder: one daemon per folder.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::Error;

const LOCK: &str = "lock";

/// A runtime folder that this process has to itself, until the value is dropped or the process
/// ends in any way, killed included.
#[derive(Debug)]
pub struct RuntimeDir {
    path: PathBuf,
    /// Its lock is the claim to the folder.
    _lock: File,
    /// The folders that had to be created, the innermost first.
    created: Vec<PathBuf>,
    /// Whether it was given up already.
    left: bool,
}

impl Drop for RuntimeDir {
    fn drop(&mut self) {
        // Nobody is left to tell, and a lock file that stays claims nothing.
        let _ = self.clear();
    }
}

impl RuntimeDir {
    /// Creates the folder (mode 0755) if it is not there, and claims it.
    pub fn claim(path: &Path) -> Result<Self, Error> {
        let refuse = |reason: String| Error::RuntimeDir {
            path: path.to_owned(),
            reason,
        };
        if !path.is_absolute() {
            return Err(refuse("give an absolute path".to_owned()));
        }
        let created = create(path).map_err(|error| refuse(plain(&error)))?;
        match Self::lock(path, &refuse) {
            Ok(lock) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
                created,
                left: false,
            }),
            Err(error) => {
                remove_all(&created);
                Err(error)
            }
        }
    }

    fn lock(path: &Path, refuse: &dyn Fn(String) -> Error) -> Result<File, Error> {
        let metadata = fs::metadata(path).map_err(|error| refuse(plain(&error)))?;
        if !metadata.is_dir() {
            return Err(refuse("is not a folder".to_owned()));
        }
        if metadata.mode() & 0o022 != 0 {
            return Err(refuse(format!(
                "others can write to it (mode {:04o}); run `chmod go-w {}` or choose another",
                metadata.mode() & 0o7777,
                path.display()
            )));
        }
        let file = path.join(LOCK);
        loop {
            let mut lock = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o644)
                .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
                .open(&file)
                .map_err(|error| refuse(format!("{LOCK}: {}", plain(&error))))?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(fs::TryLockError::WouldBlock) => {
                    return Err(Error::Owned {
                        path: path.to_owned(),
                        pid: read_pid(&mut lock),
                    });
                }
                Err(fs::TryLockError::Error(error)) => {
                    return Err(refuse(format!("{LOCK}: {}", plain(&error))));
                }
            }
            // Whoever leaves removes the file: the one just locked may be that one.
            let named = fs::metadata(&file).map(|named| named.ino()).ok();
            if lock.metadata().map(|locked| locked.ino()).ok() == named {
                write_pid(&mut lock).map_err(|error| Error::file("write", &file, error))?;
                return Ok(lock);
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the folder up: removes the lock, and the folders that were created for it as far as
    /// they are empty. Dropping the value does the same without saying what failed.
    pub fn leave(mut self) -> Result<(), Error> {
        self.clear()
    }

    fn clear(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.left, true) {
            return Ok(());
        }
        let file = self.path.join(LOCK);
        fs::remove_file(&file).map_err(|error| Error::file("remove", file, error))?;
        remove_all(&self.created);
        Ok(())
    }

    /// Gives the folder up and removes it if nothing is left in it, whoever created it.
    pub fn remove(self) -> Result<(), Error> {
        let path = self.path.clone();
        self.leave()?;
        match fs::remove_dir(&path) {
            Err(error)
                if !matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Err(Error::file("remove", path, error))
            }
            _ => Ok(()),
        }
    }
}

/// Creates what is missing of the path, and tells what that was, the innermost first.
fn create(path: &Path) -> io::Result<Vec<PathBuf>> {
    let missing: Vec<PathBuf> = path
        .ancestors()
        .take_while(|folder| {
            !folder.as_os_str().is_empty() && fs::symlink_metadata(folder).is_err()
        })
        .map(Path::to_owned)
        .collect();
    let mut created = Vec::new();
    for folder in missing.iter().rev() {
        match DirBuilder::new().mode(0o755).create(folder) {
            Ok(()) => created.insert(0, folder.clone()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                remove_all(&created);
                return Err(error);
            }
        }
    }
    Ok(created)
}

fn remove_all(created: &[PathBuf]) {
    for folder in created {
        if fs::remove_dir(folder).is_err() {
            break;
        }
    }
}

fn read_pid(lock: &mut File) -> Option<u32> {
    let mut text = String::new();
    lock.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(lock: &mut File) -> io::Result<()> {
    lock.set_len(0)?;
    lock.rewind()?;
    writeln!(lock, "{}", std::process::id())
}

/// The kernel's words with the usual cure.
fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "permission denied; run xtproxyd as root or choose a folder that it may write to"
                .to_owned()
        }
        io::ErrorKind::NotADirectory => "a part of this path is not a folder".to_owned(),
        io::ErrorKind::ReadOnlyFilesystem => {
            "is on a read-only file system; choose another".to_owned()
        }
        _ => error.to_string(),
    }
}
