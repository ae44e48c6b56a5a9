//! XDP on an interface: what is there, and putting ours in its place.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use libbpf_rs::{ErrorKind, Program, XdpFlags};

use crate::{Error, ffi};

/// Every program of ours has a name that begins so.
const OUR_PREFIX: &str = "xtp_";

/// How an XDP program runs.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the kernel's generic code, after the driver.
    Generic,
    /// On the NIC itself. Never ours.
    Offloaded,
}

/// A program on an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProgramInfo {
    /// Its id.
    pub id: u32,
    /// Its name as the kernel knows it.
    pub name: String,
    /// The mode, if it is an XDP program.
    pub mode: Option<Mode>,
}

impl Mode {
    fn flags(self) -> u32 {
        match self {
            Self::Native => XdpFlags::DRV_MODE.bits(),
            Self::Generic => XdpFlags::SKB_MODE.bits(),
            Self::Offloaded => XdpFlags::HW_MODE.bits(),
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        })
    }
}

impl ProgramInfo {
    /// A program by its id; one that is gone has no name and is not ours. Not being allowed to
    /// look is an error: the program might be ours.
    pub(crate) fn of(id: u32, mode: Option<Mode>) -> Result<Self, Error> {
        let what = || format!("looking at the program with id {id}");
        let name = match Program::fd_from_id(id) {
            Ok(fd) => {
                ffi::program_name(fd.as_fd()).map_err(|error| Error::from_io(what(), error))?
            }
            Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Error::from_libbpf(what(), &error)),
        };
        Ok(Self { id, name, mode })
    }

    pub(crate) fn is_ours(&self) -> bool {
        self.name.starts_with(OUR_PREFIX)
    }

    pub(crate) fn open(&self) -> Result<OwnedFd, Error> {
        Program::fd_from_id(self.id).map_err(|error| {
            Error::from_libbpf(
                format!("opening the program {} (id {})", self.name, self.id),
                &error,
            )
        })
    }

    pub(crate) fn foreign(&self, interface: &str, hook: String) -> Error {
        Error::Foreign {
            interface: interface.into(),
            hook,
            name: self.name.clone(),
            id: self.id,
        }
    }
}

/// The XDP programs of an interface: none, one, or an offloaded one and another.
pub(crate) fn attached(interface: &str, ifindex: u32) -> Result<Vec<ProgramInfo>, Error> {
    let found = ffi::query_xdp(ifindex).map_err(|error| {
        Error::from_io(format!("{interface}: asking for its XDP program"), error)
    })?;
    [
        (found.drv_prog_id, Mode::Native),
        (found.skb_prog_id, Mode::Generic),
        (found.hw_prog_id, Mode::Offloaded),
    ]
    .into_iter()
    .filter(|(id, _)| *id != 0)
    .map(|(id, mode)| ProgramInfo::of(id, Some(mode)))
    .collect()
}

/// The stale program of ours, if there is one; an error if there is a foreign one.
pub(crate) fn ours_or_none(interface: &str, ifindex: u32) -> Result<Option<ProgramInfo>, Error> {
    let mut ours = None;
    for program in attached(interface, ifindex)? {
        if !program.is_ours() {
            let mode = program
                .mode
                .map(|mode| mode.to_string())
                .unwrap_or_default();
            return Err(program.foreign(interface, format!("XDP ({mode})")));
        }
        ours = Some(program);
    }
    Ok(ours)
}

/// Attaches `new`. A stale program of ours in the same mode is replaced in one
/// step; in another mode the kernel does not allow that, so it goes first, and
/// comes back if ours cannot be attached. The caller holds transit back meanwhile.
pub(crate) fn attach(
    interface: &str,
    ifindex: u32,
    mode: Mode,
    new: BorrowedFd<'_>,
) -> Result<(), Error> {
    let fresh = || {
        ffi::set_xdp(
            ifindex,
            Some(new),
            mode.flags() | XdpFlags::UPDATE_IF_NOEXIST.bits(),
            None,
        )
        .map_err(|error| explain(interface, mode, error))
    };
    let Some(stale) = ours_or_none(interface, ifindex)? else {
        return fresh();
    };
    let old = stale.open()?;
    if stale.mode == Some(mode) {
        return ffi::set_xdp(ifindex, Some(new), mode.flags(), Some(old.as_fd()))
            .map_err(|error| explain(interface, mode, error));
    }
    detach(interface, ifindex, &stale)?;
    fresh().inspect_err(|_| restore(interface, ifindex, &stale, old.as_fd()))
}

/// Puts a program back that had to make room in vain.
pub(crate) fn restore(interface: &str, ifindex: u32, program: &ProgramInfo, fd: BorrowedFd<'_>) {
    let mode = program.mode.unwrap_or(Mode::Native);
    if let Err(error) = ffi::set_xdp(
        ifindex,
        Some(fd),
        mode.flags() | XdpFlags::UPDATE_IF_NOEXIST.bits(),
        None,
    ) {
        tracing::error!("{interface}: the earlier XDP program could not be put back: {error}");
    }
}

/// Detaches this very program, and no other that came in its place.
pub(crate) fn detach(interface: &str, ifindex: u32, program: &ProgramInfo) -> Result<(), Error> {
    let mode = program.mode.unwrap_or(Mode::Native);
    let fd = program.open()?;
    ffi::set_xdp(ifindex, None, mode.flags(), Some(fd.as_fd()))
        .map_err(|error| Error::from_io(format!("{interface}: detaching XDP ({mode})"), error))
}

fn explain(interface: &str, mode: Mode, error: std::io::Error) -> Error {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        // Not the mode's fault: no right to it, somebody was faster, or the interface is gone.
        Some(Errno::PERM | Errno::BUSY | Errno::EXIST | Errno::NODEV) => {}
        // What a driver lacks it says in many ways: EOPNOTSUPP, EINVAL, ENOSPC, ENOMEM, ERANGE.
        _ if mode == Mode::Native => return Error::mode_refused(interface, mode, &error),
        _ => {}
    }
    Error::from_io(format!("{interface}: attaching XDP ({mode})"), error)
}
