//! Who a client is, for as long as its channel lives.
//!
//! Invariant: user and group are those that it connected as. A process can become a program with
//! more rights (set-user-ID) while a child of it has the channel: that program's groups and
//! sockets are not its.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use registry::Client;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, fstat, open};
use tokio::net::unix::UCred;

/// A process's folder in `/proc`. It belongs to the process's user, and to root while the
/// process runs a program with more rights than that user has.
pub(crate) struct Folder {
    fd: OwnedFd,
    owner: u32,
}

impl Folder {
    fn open(path: &str) -> io::Result<Self> {
        let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = open(path, how, Mode::empty())?;
        let owner = fstat(&fd)?.st_uid;
        Ok(Self { fd, owner })
    }

    /// Whether the process has the rights that it had.
    pub(crate) fn is_as_it_was(&self) -> bool {
        fstat(&self.fd).is_ok_and(|folder| folder.st_uid == self.owner)
    }
}

/// Reads them. `pidfd` is the process that `peer` tells of.
pub(crate) fn read(peer: &UCred, pidfd: impl AsFd) -> io::Result<(Client, Folder)> {
    let pid = peer.pid().filter(|pid| *pid > 0).ok_or_else(|| {
        io::Error::other("the client is in a PID namespace that the daemon does not see into")
    })?;
    let path = format!("/proc/{pid}");
    let folder = Folder::open(&path)?;
    let status = fs::read_to_string(format!("{path}/status"))?;
    let comm = fs::read(format!("{path}/comm"))?;
    // While it has not ended, its number was no other process's.
    if has_ended(pidfd)? {
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let mut gids = vec![peer.gid()];
    gids.extend(groups(&status, peer.uid()));
    let client = Client {
        pid: pid.cast_unsigned(),
        uid: peer.uid(),
        gids,
        command: readable(&comm),
    };
    Ok((client, folder))
}

fn has_ended(pidfd: impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec::default()))? != 0)
}

/// The supplementary groups that a `/proc/PID/status` tells of, if every user id there is `uid`.
fn groups(status: &str, uid: u32) -> Vec<u32> {
    let numbers = |name: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let words = line.unwrap_or_default().split_whitespace();
        words.filter_map(|word| word.parse().ok()).collect()
    };
    let uids = numbers("Uid:");
    if uids.len() == 4 && uids.iter().all(|one| *one == uid) {
        numbers("Groups:")
    } else {
        Vec::new()
    }
}

/// A process's name, which it chooses itself: one line that no terminal obeys.
fn readable(comm: &[u8]) -> String {
    let comm = String::from_utf8_lossy(comm.strip_suffix(b"\n").unwrap_or(comm));
    let shown = |c: char| if c.is_control() { '?' } else { c };
    comm.chars().take(32).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_count_for_the_user_that_connected_only() {
        let status =
            |uids: &str| format!("Name:\tx\nUid:\t{uids}\nGid:\t7\t7\t7\t7\nGroups:\t4 27 1000 \n");
        assert_eq!(
            groups(&status("1000\t1000\t1000\t1000"), 1000),
            [4, 27, 1000]
        );
        for other in [
            "1000\t0\t0\t0",
            "1000\t1000\t0\t1000",
            "0\t0\t0\t0",
            "1000",
            "",
        ] {
            assert!(groups(&status(other), 1000).is_empty(), "{other}");
        }
        assert!(groups("Uid:\t5\t5\t5\t5\nGroups:\t\n", 5).is_empty());
    }

    #[test]
    fn a_name_is_one_harmless_line() {
        assert_eq!(readable(b"ftp-proxy\n"), "ftp-proxy");
        assert_eq!(readable(b"a\nb\x1b[31m\xff\n"), "a?b?[31m\u{fffd}");
    }

    #[test]
    fn a_process_is_described() {
        let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let pidfd = sockets::peer_pidfd(&ours).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .unwrap();
        let _entered = runtime.enter();
        ours.set_nonblocking(true).unwrap();
        let peer = tokio::net::UnixStream::from_std(ours)
            .unwrap()
            .peer_cred()
            .unwrap();
        let (client, folder) = read(&peer, pidfd).unwrap();
        assert!(folder.is_as_it_was());
        assert_eq!(client.pid, std::process::id());
        assert_eq!(client.uid, rustix::process::geteuid().as_raw());
        assert_eq!(client.gids[0], rustix::process::getegid().as_raw());
        assert!(!client.command.is_empty());
    }
}
