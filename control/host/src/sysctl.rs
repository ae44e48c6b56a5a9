//! Kernel settings under /proc/sys.

use std::fmt;
use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// The name of a setting, with slashes: `net/ipv4/conf/eth1/rp_filter`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sysctl(String);

impl Sysctl {
    /// A setting by its parts, of which one may be an interface's name.
    pub fn of(parts: &[&str]) -> Self {
        Self(parts.join("/"))
    }

    /// Reads it; in network settings, those of the calling thread's namespace.
    pub fn read(&self) -> Result<String, Error> {
        let path = self.path();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim_end().to_owned()),
            Err(error) => Err(Error::file("read", path, error)),
        }
    }

    /// Writes it. This does not go into the journal: see [`crate::Changes::set_sysctl`].
    pub fn write(&self, value: &str) -> Result<(), Error> {
        let path = self.path();
        fs::write(&path, value).map_err(|error| Error::file("write", path, error))
    }

    /// Whether this kernel has it.
    pub fn exists(&self) -> bool {
        self.path().exists()
    }

    /// The ports that this namespace's kernel gives to sockets which ask for none in particular.
    pub fn local_ports() -> Result<RangeInclusive<u16>, Error> {
        let range = Self::of(&["net", "ipv4", "ip_local_port_range"]);
        let text = range.read()?;
        let mut ports = text.split_whitespace().map_while(|port| port.parse().ok());
        match (ports.next(), ports.next()) {
            (Some(first), Some(last)) if first <= last => Ok(first..=last),
            _ => Err(Error::file(
                "understand",
                range.path(),
                io::Error::other(format!("{text:?} is no range of ports")),
            )),
        }
    }

    fn path(&self) -> PathBuf {
        // The journal is a file that somebody may have edited: nothing leaves /proc/sys.
        let parts = self
            .0
            .split('/')
            .filter(|part| !matches!(*part, "" | "." | ".."));
        Path::new("/proc/sys").join(parts.collect::<PathBuf>())
    }
}

impl fmt::Display for Sysctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_has_a_range_of_ports() {
        let ports = Sysctl::local_ports().unwrap();
        assert!(*ports.start() > 0 && ports.len() > 1, "{ports:?}");
    }

    #[test]
    fn stays_below_proc_sys() {
        let path = Sysctl("../../etc//./passwd".to_owned()).path();
        assert_eq!(path, Path::new("/proc/sys/etc/passwd"));
    }
}
