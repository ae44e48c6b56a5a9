//! What the process may do.

use std::fs;

use crate::Error;

const STATUS: &str = "/proc/thread-self/status";

const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;
/// Includes CAP_BPF and CAP_PERFMON, with which loading would do. But to tell our programs from
/// others' takes their names, the kernel opens a program by its id for this one alone, and
/// pins, which would not need it, go with the mount that they are in.
const SYS_ADMIN: u32 = 21;
/// To look at the sockets that other users' proxies register.
const SYS_PTRACE: u32 = 19;

/// Refuses with one line that names every capability that is missing.
pub fn require() -> Result<(), Error> {
    let status = fs::read_to_string(STATUS).map_err(|error| Error::file("read", STATUS, error))?;
    let missing = missing(effective(&status).unwrap_or(0));
    if missing.is_empty() {
        return Ok(());
    }
    Err(Error::Privileges {
        missing: missing.join(", "),
    })
}

fn effective(status: &str) -> Option<u64> {
    let value = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

fn missing(effective: u64) -> Vec<&'static str> {
    let has = |capability: u32| effective & (1 << capability) != 0;
    let mut missing = Vec::new();
    if !has(NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    if !has(NET_RAW) {
        missing.push("CAP_NET_RAW");
    }
    if !has(SYS_ADMIN) {
        missing.push("CAP_SYS_ADMIN");
    }
    if !has(SYS_PTRACE) {
        missing.push("CAP_SYS_PTRACE");
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(capabilities: &[u32]) -> Vec<&'static str> {
        missing(capabilities.iter().map(|capability| 1 << capability).sum())
    }

    #[test]
    fn names_what_is_missing() {
        assert!(of(&[NET_ADMIN, NET_RAW, SYS_ADMIN, SYS_PTRACE]).is_empty());
        // CAP_PERFMON and CAP_BPF load programs, but do not find them again.
        assert_eq!(
            of(&[NET_ADMIN, NET_RAW, SYS_PTRACE, 38, 39]),
            ["CAP_SYS_ADMIN"]
        );
        assert_eq!(
            of(&[]),
            [
                "CAP_NET_ADMIN",
                "CAP_NET_RAW",
                "CAP_SYS_ADMIN",
                "CAP_SYS_PTRACE"
            ]
        );
    }

    #[test]
    fn reads_the_effective_set() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n";
        assert_eq!(effective(status), Some(0x1ff_ffff_ffff));
        assert_eq!(effective("CapEff:\tnonsense\n"), None);
        assert_eq!(effective(""), None);
    }
}
