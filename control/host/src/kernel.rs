//! What the kernel must be able to do.

use std::fmt;
use std::fs;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, socket};

use crate::Error;

/// A kernel's version, as far as features depend on it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct KernelVersion {
    /// 6 of 6.12.
    pub major: u32,
    /// 12 of 6.12.
    pub minor: u32,
}

/// AF_XDP with need-wakeup, shared regions and the BPF helpers that the steering programs call
/// (5.10); a name for the network namespace of a socket (5.14).
const OLDEST: KernelVersion = KernelVersion {
    major: 5,
    minor: 14,
};

impl KernelVersion {
    /// The running kernel's.
    pub fn running() -> Result<Self, Error> {
        let path = "/proc/sys/kernel/osrelease";
        let release = fs::read_to_string(path).map_err(|error| Error::file("read", path, error))?;
        Self::parse(&release).ok_or_else(|| {
            Error::Kernel(format!(
                "cannot tell the kernel's version from {:?} in {path}; Linux {OLDEST} or later is \
                 needed",
                release.trim()
            ))
        })
    }

    fn parse(release: &str) -> Option<Self> {
        let number = |part: &str| {
            let digits = part
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(part.len());
            part[..digits].parse().ok()
        };
        let mut parts = release.split('.');
        Some(Self {
            major: number(parts.next()?)?,
            minor: number(parts.next()?)?,
        })
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Refuses a kernel without what the daemon needs.
pub fn check() -> Result<(), Error> {
    enough(KernelVersion::running()?)?;
    if !Path::new("/proc/sys/net").is_dir() {
        return Err(Error::Kernel(
            "/proc/sys/net is missing; mount proc and boot a kernel with CONFIG_SYSCTL".to_owned(),
        ));
    }
    match socket(AddressFamily::XDP, SocketType::RAW, None) {
        Ok(_) => Ok(()),
        Err(Errno::AFNOSUPPORT) => Err(Error::Kernel(
            "this kernel has no AF_XDP sockets; boot one with CONFIG_XDP_SOCKETS=y".to_owned(),
        )),
        Err(Errno::PERM) => Err(Error::Privileges {
            missing: "CAP_NET_RAW".to_owned(),
        }),
        Err(error) => Err(Error::Kernel(format!(
            "cannot create an AF_XDP socket: {error}"
        ))),
    }
}

fn enough(version: KernelVersion) -> Result<(), Error> {
    if version < OLDEST {
        return Err(Error::Kernel(format!(
            "this is Linux {version}; xtproxyd needs Linux {OLDEST} or later"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_distributions_write() {
        let version = |major, minor| Some(KernelVersion { major, minor });
        assert_eq!(KernelVersion::parse("6.1.0-18-amd64\n"), version(6, 1));
        assert_eq!(KernelVersion::parse("5.10-rc3"), version(5, 10));
        assert_eq!(KernelVersion::parse("6.18.44-fc"), version(6, 18));
        assert_eq!(KernelVersion::parse("six"), None);
        assert_eq!(KernelVersion::parse(""), None);
    }

    #[test]
    fn refuses_an_old_one() {
        let refusal = |major, minor| {
            enough(KernelVersion { major, minor })
                .err()
                .map(|error| error.to_string())
        };
        assert_eq!(
            refusal(5, 4).as_deref(),
            Some("this is Linux 5.4; xtproxyd needs Linux 5.14 or later")
        );
        assert!(refusal(4, 19).is_some());
        assert!(refusal(5, 13).is_some());
        assert_eq!(refusal(5, 14), None);
        assert_eq!(refusal(6, 0), None);
    }
}
