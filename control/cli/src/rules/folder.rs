//! The files of a ruleset, in one folder.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::run::Failed;

/// No file of a ruleset is longer.
const LONGEST_BYTES: u64 = 256 * 1024 * 1024;

/// The folder.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// The folder that the arguments name.
    pub(super) fn open(dir: &Path) -> Result<Self, Failed> {
        let absolute = std::path::absolute(dir);
        let absolute = absolute.map_err(|e| Failed::Told(format!("{}: {e}", dir.display())))?;
        if absolute.to_str().is_none() {
            let what = "its name is not UTF-8, and cannot be told to the daemon";
            return Err(Failed::Told(format!("{}: {what}", dir.display())));
        }
        if !absolute.is_dir() {
            let cure = "no such folder; name the one with iptables.conf.in with --dir";
            return Err(Failed::Told(format!("{}: {cure}", dir.display())));
        }
        Ok(Self(absolute))
    }

    /// The rules as they are edited.
    pub(super) fn input(&self) -> PathBuf {
        self.0.join("iptables.conf.in")
    }

    /// The macros as they are edited.
    pub(super) fn definitions(&self) -> PathBuf {
        self.0.join("iptables.conf.var")
    }

    /// The rules as they are made.
    pub(super) fn made(&self) -> PathBuf {
        self.0.join("iptables.conf.new")
    }

    /// The rules as they are loaded.
    pub(super) fn current(&self) -> PathBuf {
        self.0.join("iptables.conf")
    }

    /// The rules as they are made, which must be there.
    pub(super) fn made_already(&self) -> Result<PathBuf, Failed> {
        let made = self.made();
        if made.is_file() {
            return Ok(made);
        }
        let cure = "no such file; 'xtproxy rules gen' makes it of iptables.conf.in";
        Err(Failed::Told(format!("{}: {cure}", made.display())))
    }

    /// What is to be said if what was made is older than what it was made of.
    pub(super) fn staleness(&self) -> Option<String> {
        let time = |path: &Path| fs::metadata(path).and_then(|of| of.modified()).ok();
        let made = time(&self.made())?;
        let sources = [self.input(), self.definitions()];
        let newer = (sources.iter()).find(|source| time(source).is_some_and(|at| at > made))?;
        Some(format!(
            "{} is newer than iptables.conf.new; 'xtproxy rules gen' makes it anew",
            newer.display()
        ))
    }

    /// Replaces what was made, in one step.
    pub(super) fn put_made(&self, text: &str) -> Result<(), Failed> {
        let put = || -> std::io::Result<()> {
            let mode = fs::Permissions::from_mode(0o640);
            let mut file = tempfile::Builder::new()
                .prefix(".iptables.conf.new.")
                .permissions(mode)
                .tempfile_in(&self.0)?;
            file.write_all(text.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(self.made()).map_err(|e| e.error)?;
            fs::File::open(&self.0)?.sync_all()
        };
        put().map_err(|e| Failed::Told(format!("{}: {e}", self.made().display())))
    }
}

/// The file of sets beside a ruleset, if it is there.
pub(super) fn sets_beside(ruleset: &Path) -> Option<PathBuf> {
    // A ruleset that is not committed yet may have sets that are not, either.
    let new = ruleset.extension().is_some_and(|last| last == "new");
    let names: &[&str] = if new {
        &["ipset.conf.new", "ipset.conf"]
    } else {
        &["ipset.conf"]
    };
    let mut there = names.iter().map(|name| ruleset.with_file_name(name));
    there.find(|sets| sets.exists())
}

/// A path in the words of the control socket.
pub(super) fn told(path: &Path) -> Result<String, Failed> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| Failed::Told(format!("{}: not UTF-8", path.display())))
}

/// The text of a file; none if there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<String>, Failed> {
    let failed = |what: String| Failed::Told(format!("{}: {what}", path.display()));
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error.to_string())),
    };
    let mut bytes = Vec::new();
    let read = file.take(LONGEST_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| failed(error.to_string()))?;
    if bytes.len() as u64 > LONGEST_BYTES {
        return Err(failed(format!("longer than {LONGEST_BYTES} bytes")));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
        Failed::Told(format!("{}:{line}: not UTF-8", path.display()))
    })
}
