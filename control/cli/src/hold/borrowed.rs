//! The UDP socket of another process, found by its address in `/proc` and borrowed by
//! `pidfd_getfd`.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::fstat;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use crate::run::Failed;

/// The kernel's lists of UDP sockets of this network namespace.
const LISTS: [&str; 2] = ["/proc/self/net/udp", "/proc/self/net/udp6"];

/// Where somebody's socket is.
#[derive(Debug)]
pub(super) struct Borrowed {
    local: SocketAddrV4,
    inode: u64,
    pid: Pid,
    fd: i32,
}

impl Borrowed {
    /// The socket that is bound to this address and not connected.
    pub(super) fn find(local: SocketAddrV4) -> Result<Option<Self>, Failed> {
        let all = sockets()?;
        let every = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, local.port());
        let is_meant = |bound: &&Bound| bound.local == local && !bound.is_connected;
        let Some(Bound { inode, .. }) = all.iter().find(is_meant) else {
            if all.iter().all(|bound| bound.local != every) {
                return Ok(None);
            }
            return Err(Failed::Told(format!(
                "--local {local}: the socket there is bound to every address: let its program \
                 bind it to {} alone",
                local.ip()
            )));
        };
        let inode = *inode;
        match holder(inode) {
            Some((pid, fd)) => Ok(Some(Self {
                local,
                inode,
                pid,
                fd,
            })),
            // Closed in between, or not to be seen.
            None if sockets()?.iter().all(|bound| bound.inode != inode) => Ok(None),
            None => Err(denied(local)),
        }
    }

    /// Whether somebody still has it.
    pub(super) fn is_open(&self) -> bool {
        sockets().is_ok_and(|all| all.iter().any(|bound| bound.inode == self.inode))
    }

    /// A copy of its descriptor. While there is one, it is not closed.
    pub(super) fn borrow(&self) -> Result<OwnedFd, Failed> {
        // Its process may have given it to another, and closed its own.
        let copy = take(self.pid, self.fd, self.inode);
        let copy = copy.or_else(|errno| match holder(self.inode) {
            Some((pid, fd)) => take(pid, fd, self.inode),
            None => Err(errno),
        });
        copy.map_err(|errno| match errno {
            Errno::PERM => denied(self.local),
            other => Failed::Told(format!("--local {}: its socket: {other}", self.local)),
        })
    }
}

fn denied(local: SocketAddrV4) -> Failed {
    Failed::Told(format!(
        "--local {local}: the socket there belongs to another user's process: run this as root"
    ))
}

/// A copy of this process's descriptor, if it is the socket of this inode.
fn take(pid: Pid, fd: i32, inode: u64) -> Result<OwnedFd, Errno> {
    let process = pidfd_open(pid, PidfdFlags::empty())?;
    let copy = pidfd_getfd(process.as_fd(), fd, PidfdGetfdFlags::empty())?;
    if fstat(&copy)?.st_ino == inode {
        Ok(copy)
    } else {
        Err(Errno::BADF)
    }
}

/// A socket of the kernel's lists.
#[derive(Debug, PartialEq, Eq)]
struct Bound {
    local: SocketAddrV4,
    is_connected: bool,
    inode: u64,
}

fn sockets() -> Result<Vec<Bound>, Failed> {
    let mut all = Vec::new();
    for list in LISTS {
        match fs::read_to_string(list) {
            Ok(text) => all.extend(text.lines().skip(1).filter_map(parse)),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Failed::Told(format!("{list}: {error}"))),
        }
    }
    Ok(all)
}

/// A line: number, local, remote, state, queues, timer, retransmits, uid, timeout, inode.
fn parse(line: &str) -> Option<Bound> {
    let mut words = line.split_whitespace().skip(1);
    let local = address(words.next()?)?;
    let is_connected = address(words.next()?)?.port() != 0;
    let inode = words.nth(6)?.parse().ok()?;
    Some(Bound {
        local,
        is_connected,
        inode,
    })
}

/// `0100000A:C365`: words as they lie in memory, and the port as a number. IPv6 only where it
/// stands for IPv4.
fn address(text: &str) -> Option<SocketAddrV4> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| {
        let word = u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?;
        Some(word.to_ne_bytes())
    };
    let ip = match ip.len() {
        8 => Ipv4Addr::from(word(0)?),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            let mut octets = [0; 16];
            octets.copy_from_slice(&words.concat());
            let ip = Ipv6Addr::from(octets);
            if ip.is_unspecified() {
                Ipv4Addr::UNSPECIFIED
            } else {
                ip.to_ipv4_mapped()?
            }
        }
        _ => return None,
    };
    Some(SocketAddrV4::new(ip, port))
}

/// A process that has the socket of this inode, and its number there.
fn holder(inode: u64) -> Option<(Pid, i32)> {
    let name = format!("socket:[{inode}]");
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let pid: i32 = process.file_name().to_str()?.parse().ok()?;
        let descriptors = fs::read_dir(process.path().join("fd")).ok()?;
        let fd = descriptors.flatten().find_map(|descriptor| {
            let target = fs::read_link(descriptor.path()).ok()?;
            let is_it = target == Path::new(&name);
            is_it
                .then(|| descriptor.file_name().to_str()?.parse().ok())
                .flatten()
        })?;
        Some((Pid::from_raw(pid)?, fd))
    })
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    fn local(socket: &UdpSocket) -> SocketAddrV4 {
        let local = socket.local_addr().unwrap();
        local.to_string().parse().unwrap()
    }

    #[test]
    fn a_socket_is_found_and_borrowed_until_it_is_closed() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = local(&socket);
        let found = Borrowed::find(at).unwrap().unwrap();
        let copy = found.borrow().unwrap();
        let copy = UdpSocket::from(copy);
        assert_eq!(local(&copy), at);
        assert!(found.is_open());
        drop((socket, copy));
        assert!(!found.is_open());
        assert!(Borrowed::find(at).unwrap().is_none());
    }

    #[test]
    fn another_socket_under_the_number_is_not_taken() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let found = Borrowed::find(local(&socket)).unwrap().unwrap();
        assert!(matches!(
            take(found.pid, found.fd, found.inode + 1),
            Err(Errno::BADF)
        ));
    }

    #[test]
    fn connected_ones_are_not_meant_and_wildcards_are_told() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = local(&socket);
        socket.connect("127.0.0.1:9").unwrap();
        assert!(Borrowed::find(at).unwrap().is_none());
        for every in ["0.0.0.0:0", "[::]:0"] {
            let socket = UdpSocket::bind(every).unwrap();
            let port = socket.local_addr().unwrap().port();
            let Err(error) = Borrowed::find(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) else {
                panic!("{every} was found");
            };
            assert!(error.to_string().contains("bound to every address"));
        }
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        for line in [
            "",
            "x",
            "1: 0100007F:0035",
            "1: \u{e9}100007F:0035 00000000:0000 07 0:0",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
        let mapped = "0000000000000000FFFF00000100007F:0035";
        assert_eq!(address(mapped), "127.0.0.1:53".parse().ok());
        assert_eq!(address("00000000000000000000000001000000:0035"), None);
    }
}
