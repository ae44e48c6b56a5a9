//! Which processes hold a socket open.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The processes that hold these sockets, by the sockets' inodes; each process once for a
/// socket.
///
/// Goes through the descriptors of every process: for a thread that may take its time. What comes
/// and goes meanwhile may be missed, and so is a process that may not be looked into (that takes
/// `CAP_SYS_PTRACE`). Links are read and never followed: no file system but `/proc` is asked.
#[must_use]
pub fn holders(inodes: &HashSet<u32>) -> HashMap<u32, Vec<u32>> {
    let mut holders: HashMap<u32, Vec<u32>> = HashMap::new();
    if inodes.is_empty() {
        return holders;
    }
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        for held in sockets_of(&process.path()).intersection(inodes) {
            holders.entry(*held).or_default().push(pid);
        }
    }
    holders
}

/// The inodes of all sockets that a process has open. None of one that has ended.
fn sockets_of(process: &Path) -> HashSet<u32> {
    let descriptors = fs::read_dir(process.join("fd"));
    let links = descriptors.into_iter().flatten().flatten();
    let links = links.filter_map(|descriptor| fs::read_link(descriptor.path()).ok());
    links
        .filter_map(|link| inode(link.as_os_str().as_bytes()))
        .collect()
}

/// The number in `socket:[4711]`.
fn inode(link: &[u8]) -> Option<u32> {
    let number = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    str::from_utf8(number).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_sockets_alone_have_numbers() {
        assert_eq!(inode(b"socket:[4711]"), Some(4711));
        for other in [
            "pipe:[4711]",
            "socket:[]",
            "socket:[-1]",
            "socket:[99999999999]",
            "/tmp/socket:[1]",
            "socket:[1] (deleted)",
        ] {
            assert_eq!(inode(other.as_bytes()), None, "{other}");
        }
    }
}
