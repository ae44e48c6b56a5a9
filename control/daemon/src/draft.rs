//! A file's new text, written beside it and put in its place in one step.
//!
//! Invariant: the file has the old text or the new one, whole, whenever the machine stops.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The new text, on the disk under another name.
pub struct Draft {
    path: PathBuf,
    target: PathBuf,
}

impl Draft {
    /// Writes it, with the owner and mode of what it will replace. A link stays one.
    pub fn write(target: &Path, text: &str) -> Result<Self> {
        let cannot = || format!("cannot replace {}", target.display());
        let target = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
        let name = target.file_name().with_context(cannot)?.to_string_lossy();
        let path = target.with_file_name(format!(".{name}.{}", std::process::id()));
        // Of a daemon that had this number and was killed.
        let _ = fs::remove_file(&path);
        let old = fs::metadata(&target).ok();
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(old.as_ref().map_or(0o644, |old| old.mode() & 0o7777))
            .open(&path)
            .with_context(cannot)?;
        let draft = Self { path, target };
        if let Some(old) = old {
            fchown(&file, Some(old.uid()), Some(old.gid())).with_context(cannot)?;
            file.set_permissions(old.permissions())
                .with_context(cannot)?;
        }
        file.write_all(text.as_bytes()).with_context(cannot)?;
        file.sync_all().with_context(cannot)?;
        Ok(draft)
    }

    /// Puts it in its place.
    pub fn put(self) -> Result<()> {
        let cannot = || format!("cannot replace {}", self.target.display());
        fs::rename(&self.path, &self.target).with_context(cannot)?;
        let folder = self.target.parent().with_context(cannot)?;
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .with_context(cannot)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Gone already if it was put in its place.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn the_old_text_stays_until_the_new_one_is_put() {
        let dir = tempfile::tempdir().expect("a folder");
        let real = dir.path().join("real.conf");
        let link = dir.path().join("iptables.conf");
        fs::write(&real, "old").expect("a file");
        fs::set_permissions(&real, fs::Permissions::from_mode(0o640)).expect("a mode");
        symlink(&real, &link).expect("a link");
        drop(Draft::write(&link, "never").expect("a draft"));
        let draft = Draft::write(&link, "new").expect("a draft");
        assert_eq!(fs::read_to_string(&real).expect("text"), "old");
        draft.put().expect("put");
        assert_eq!(fs::read_to_string(&link).expect("text"), "new");
        assert!(fs::symlink_metadata(&link).expect("a link").is_symlink());
        let mode = fs::metadata(&real).expect("a file").mode();
        assert_eq!(mode & 0o777, 0o640);
        assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 2);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = Draft::write(Path::new("/nowhere/iptables.conf"), "").err();
        let told = format!("{:#}", error.expect("refused"));
        assert!(told.contains("/nowhere/iptables.conf"), "{told}");
    }
}
