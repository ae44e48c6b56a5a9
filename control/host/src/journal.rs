//! The file behind [`crate::Changes`]: `changes.json` in the runtime folder.
//!
//! Invariant: the file is always a whole journal, the one before a write or the one after it.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{Change, Error};

const NAME: &str = "changes.json";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    boot_id: String,
    netns: String,
    changes: Vec<Change>,
}

#[derive(Debug)]
pub(crate) struct Journal {
    runtime_dir: PathBuf,
    boot_id: String,
    /// The number of the network namespace that the entries are about.
    netns: String,
}

impl Journal {
    pub(crate) fn open(runtime_dir: &Path) -> Result<(Self, Vec<Change>), Error> {
        let journal = Self {
            runtime_dir: runtime_dir.to_owned(),
            boot_id: boot_id()?,
            netns: netns()?,
        };
        journal.lay_aside_foreign()?;
        let changes = match journal.read(&journal.path())? {
            Some(content) if content.boot_id == journal.boot_id => content.changes,
            Some(_) => {
                tracing::info!("the journal of changes is from before the last boot: begun anew");
                Vec::new()
            }
            None => Vec::new(),
        };
        Ok((journal, changes))
    }

    pub(crate) fn runtime_dir(&self) -> &Path {
        &self.runtime_dir
    }

    /// Puts the list on the disk in place of the one before; an empty one needs no file.
    pub(crate) fn write(&self, changes: &[Change]) -> Result<(), Error> {
        let path = self.path();
        if changes.is_empty() {
            return match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(Error::file("remove", path, error))
                }
                _ => Ok(()),
            };
        }
        let content = Content {
            version: VERSION,
            boot_id: self.boot_id.clone(),
            netns: self.netns.clone(),
            changes: changes.to_vec(),
        };
        let fresh = self.runtime_dir.join(format!("{NAME}.new"));
        self.write_whole(&fresh, &path, &content)
            .map_err(|error| Error::file("write", path, error))
    }

    fn write_whole(&self, fresh: &Path, path: &Path, content: &Content) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(content)?;
        text.push(b'\n');
        let mut file = File::create(fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(fresh, path)?;
        File::open(&self.runtime_dir)?.sync_all()
    }

    fn read(&self, path: &Path) -> Result<Option<Content>, Error> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("read", path, error)),
        };
        let broken = |line, column, reason| Error::Journal {
            path: path.to_owned(),
            line,
            column,
            reason,
        };
        let content: Content = serde_json::from_str(&text)
            .map_err(|error| broken(error.line(), error.column(), reason(&error)))?;
        if content.version != VERSION {
            let reason = format!("version {}, not {VERSION}", content.version);
            return Err(broken(1, 1, reason));
        }
        Ok(Some(content))
    }

    /// A folder can be used in one namespace after another. What the journal of the other one
    /// lists cannot be undone from here, and must not be forgotten either.
    fn lay_aside_foreign(&self) -> Result<(), Error> {
        let path = self.path();
        let content = self.read(&path)?;
        match content {
            Some(content) if content.netns == self.netns => return Ok(()),
            Some(content) if content.boot_id == self.boot_id => {
                let aside = self.aside(&content.netns);
                tracing::warn!(
                    "{} is of another network namespace; laid aside as {}",
                    path.display(),
                    aside.display()
                );
                fs::rename(&path, &aside).map_err(|error| Error::file("lay aside", path, error))?;
            }
            _ => {}
        }
        let own = self.aside(&self.netns);
        match fs::rename(&own, self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("take back", own, error))
            }
            _ => Ok(()),
        }
    }

    fn path(&self) -> PathBuf {
        self.runtime_dir.join(NAME)
    }

    fn aside(&self, netns: &str) -> PathBuf {
        let number: String = netns.chars().filter(char::is_ascii_digit).collect();
        self.runtime_dir.join(format!("changes-{number}.json"))
    }
}

/// serde_json's message without its own place, which comes first in ours.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text,
    }
}

fn boot_id() -> Result<String, Error> {
    let path = "/proc/sys/kernel/random/boot_id";
    let text = fs::read_to_string(path).map_err(|error| Error::file("read", path, error))?;
    Ok(text.trim().to_owned())
}

fn netns() -> Result<String, Error> {
    let path = "/proc/thread-self/ns/net";
    let link = fs::read_link(path).map_err(|error| Error::file("read", path, error))?;
    Ok(link
        .to_string_lossy()
        .chars()
        .filter(char::is_ascii_digit)
        .collect())
}
