//! Processes as descriptors: which do not become another process when theirs has ended.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::GetSockOpt;
use nix::sys::socket::sockopt::{PeerCredentials, PeerPidfd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The process that has connected this Unix socket.
///
/// # Errors
/// The process is gone, or the system's answer.
pub fn peer_pidfd(stream: impl AsFd) -> io::Result<OwnedFd> {
    match PeerPidfd.get(&stream) {
        Ok(pidfd) => Ok(pidfd),
        // Before Linux 6.5. Should its number belong to another process by now, then the socket
        // has hung up, and the caller finds that before it answers anything.
        Err(nix::errno::Errno::ENOPROTOOPT) => pidfd_of(PeerCredentials.get(&stream)?.pid()),
        Err(errno) => Err(errno.into()),
    }
}

/// The process of this number.
///
/// # Errors
/// There is none, or the system's answer.
pub fn pidfd_of(pid: i32) -> io::Result<OwnedFd> {
    // 0: a process that this one's PID namespace does not show.
    let pid = (pid > 0).then(|| Pid::from_raw(pid)).flatten();
    let pid = pid.ok_or(Errno::SRCH)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}
