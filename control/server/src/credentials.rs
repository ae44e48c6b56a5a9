//! Who a client is, for as long as its channel lives.
//!
//! Invariant: user and group are those that it connected as. A process can become a program with
//! more rights (set-user-ID, set-group-ID, file capabilities) while a child of it has the
//! channel: that program's groups and sockets are not its.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use registry::Client;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{AtFlags, Mode, OFlags, open, openat, statat};
use tokio::net::unix::UCred;

/// A process as it was when it connected, to be compared with what it is.
///
/// A file in a process's folder belongs to its effective user and group, and to root as soon as
/// the kernel lets nobody look into it (not "dumpable"): that is so for every program with
/// more rights than its caller. (The folder itself follows the user alone.) A look at the owner
/// is cheap; only where it says nothing, the rights themselves are read.
pub(crate) struct Standing {
    folder: OwnedFd,
    /// The file's user and group, if others may look into the process.
    owner: Option<(u32, u32)>,
    rights: Rights,
}

impl Standing {
    fn read(pid: i32, uid: u32) -> io::Result<(Self, String)> {
        let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = open(format!("/proc/{pid}"), how, Mode::empty())?;
        let status = text_of(&folder)?;
        let rights = Rights::of(&status).ok_or(io::ErrorKind::InvalidData)?;
        // After the rights: an owner of newer ones would hide them.
        let owner = owner_of(&folder).filter(|(user, _)| *user == uid && uid != 0);
        let standing = Self {
            folder,
            owner,
            rights,
        };
        Ok((standing, status))
    }

    /// Whether the process has no other rights than it had.
    pub(crate) fn is_as_it_was(&self) -> bool {
        let is_owned_so = self.owner.is_some() && owner_of(&self.folder) == self.owner;
        is_owned_so
            || text_of(&self.folder).is_ok_and(|status| {
                Rights::of(&status).is_some_and(|now| now.are_within(&self.rights))
            })
    }
}

/// By its name: an open file's owner is not brought up to date.
fn owner_of(folder: &OwnedFd) -> Option<(u32, u32)> {
    let stat = statat(folder, "status", AtFlags::SYMLINK_NOFOLLOW).ok()?;
    Some((stat.st_uid, stat.st_gid))
}

fn text_of(folder: &OwnedFd) -> io::Result<String> {
    let how = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut text = String::new();
    File::from(openat(folder, "status", how, Mode::empty())?).read_to_string(&mut text)?;
    Ok(text)
}

/// What a process may do.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Rights {
    /// Real, effective, saved and for files.
    uids: Vec<u32>,
    gids: Vec<u32>,
    /// Those that it may use.
    capabilities: u64,
}

impl Rights {
    /// As a `/proc/PID/status` tells them.
    fn of(status: &str) -> Option<Self> {
        let (uids, gids) = (numbers(status, "Uid:"), numbers(status, "Gid:"));
        let capabilities = value(status, "CapPrm:")?;
        Some(Self {
            uids,
            gids,
            capabilities: u64::from_str_radix(capabilities, 16).ok()?,
        })
        .filter(|rights| rights.uids.len() == 4 && rights.gids.len() == 4)
    }

    /// Whether these are a process's with the user and group that a connection tells of.
    fn are_of(&self, peer: &UCred) -> bool {
        self.uids.get(1) == Some(&peer.uid()) && self.gids.get(1) == Some(&peer.gid())
    }

    fn are_within(&self, others: &Self) -> bool {
        (&self.uids, &self.gids) == (&others.uids, &others.gids)
            && self.capabilities & !others.capabilities == 0
    }
}

/// The groups that a process has beside the one that it connected with, as far as it can be
/// seen now.
pub(crate) fn all_groups(peer: &UCred) -> Vec<u32> {
    let pid = peer.pid().filter(|pid| *pid > 0);
    let status = pid.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
    let mut gids = vec![peer.gid()];
    gids.extend(groups(&status.unwrap_or_default(), peer.uid()));
    gids
}

/// Reads them. `pidfd` is the process that `peer` tells of.
pub(crate) fn read(peer: &UCred, pidfd: impl AsFd) -> io::Result<(Client, Standing)> {
    let pid = peer.pid().filter(|pid| *pid > 0).ok_or_else(|| {
        io::Error::other("the client is in a PID namespace that the daemon does not see into")
    })?;
    let (standing, status) = Standing::read(pid, peer.uid())?;
    if peer.uid() != 0 && !standing.rights.are_of(peer) {
        return Err(io::Error::other(
            "the client has become a program with other rights than it connected with",
        ));
    }
    let comm = fs::read(format!("/proc/{pid}/comm"))?;
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
    Ok((client, standing))
}

fn has_ended(pidfd: impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&Timespec::default()))? != 0)
}

/// The supplementary groups that a `/proc/PID/status` tells of, if every user id there is `uid`.
fn groups(status: &str, uid: u32) -> Vec<u32> {
    let uids = numbers(status, "Uid:");
    if uids.len() == 4 && uids.iter().all(|one| *one == uid) {
        numbers(status, "Groups:")
    } else {
        Vec::new()
    }
}

/// What stands behind a name. The process's own name, which it chooses, is escaped there: it
/// makes no line.
fn value<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = status.lines();
    lines
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

fn numbers(status: &str, name: &str) -> Vec<u32> {
    let words = value(status, name).unwrap_or_default().split_whitespace();
    words.filter_map(|word| word.parse().ok()).collect()
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
    fn more_rights_are_seen_and_fewer_are_fine() {
        let status = |uid: &str, gid: &str, capabilities: &str| {
            let text = format!(
                "Name:\tx\nUid:\t{uid}\t7\t7\t7\nGid:\t{gid}\t9\t9\t9\nCapInh:\tff\nCapPrm:\t{capabilities}\n"
            );
            Rights::of(&text)
        };
        let before = status("7", "9", "00000000000000c0").unwrap();
        for (uid, gid, capabilities, want) in [
            ("7", "9", "00000000000000c0", true),
            ("7", "9", "0000000000000040", true),
            ("7", "9", "00000000000000c1", false),
            ("0", "9", "00000000000000c0", false),
            ("7", "0", "00000000000000c0", false),
        ] {
            let now = status(uid, gid, capabilities).unwrap();
            assert_eq!(now.are_within(&before), want, "{uid} {gid} {capabilities}");
        }
        assert_eq!(status("", "9", "c0"), None);
        assert_eq!(status("7", "9", "x"), None);
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
        let (client, standing) = read(&peer, pidfd).unwrap();
        assert!(standing.is_as_it_was());
        assert_eq!(client.pid, std::process::id());
        assert_eq!(client.uid, rustix::process::geteuid().as_raw());
        assert_eq!(client.gids[0], rustix::process::getegid().as_raw());
        assert!(!client.command.is_empty());
    }
}
