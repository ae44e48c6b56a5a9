//! Our filters at clsact: always the same priority and handle, so that the next
//! daemon finds them. Priority 1 runs before what others hang there.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use libbpf_rs::{TC_EGRESS, TC_INGRESS, TcAttachPoint, TcHook, TcHookBuilder};

use crate::qdisc::{self, Filter};
use crate::{Error, ProgramInfo};

const PRIORITY: u32 = 1;
/// "xtp".
const HANDLE: u32 = 0x78_7470;
const GAP_HANDLE: u32 = HANDLE + 1;

/// A place of ours at clsact.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Point {
    Ingress,
    Egress,
    /// At ingress too, and before it: of one priority the youngest runs first.
    Gap,
}

impl Point {
    pub(crate) const ALL: [Self; 3] = [Self::Ingress, Self::Egress, Self::Gap];

    fn attach_point(self) -> TcAttachPoint {
        match self {
            Self::Ingress | Self::Gap => TC_INGRESS,
            Self::Egress => TC_EGRESS,
        }
    }

    fn parent(self) -> u32 {
        match self {
            Self::Ingress | Self::Gap => 0xffff_fff2,
            Self::Egress => 0xffff_fff3,
        }
    }

    fn handle(self) -> u32 {
        match self {
            Self::Ingress | Self::Egress => HANDLE,
            Self::Gap => GAP_HANDLE,
        }
    }

    fn hook(self, ifindex: u32, program: BorrowedFd<'_>) -> TcHook {
        TcHookBuilder::new(program)
            .ifindex(ifindex.cast_signed())
            .priority(PRIORITY)
            .handle(self.handle())
            .replace(true)
            .hook(self.attach_point())
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress | Self::Gap => "tc ingress",
            Self::Egress => "tc egress",
        })
    }
}

/// Our filter of an earlier load, if there is one; an error if our place is taken.
pub(crate) fn ours_or_none(
    interface: &str,
    ifindex: u32,
    point: Point,
) -> Result<Option<ProgramInfo>, Error> {
    for filter in qdisc::filters(interface, ifindex, point.parent())? {
        if filter.priority != PRIORITY {
            continue;
        }
        if filter.kind != "bpf" {
            return Err(Error::Occupied {
                interface: interface.into(),
                what: format!(
                    "{point} has a filter of kind \"{}\" at priority {PRIORITY}",
                    filter.kind
                ),
                cure: format!(
                    "xtproxy's filter must be the first: give the other a priority above {PRIORITY}"
                ),
            });
        }
        let handle = point.handle();
        if filter.handle != handle {
            continue;
        }
        let program = ProgramInfo::of(filter.program.unwrap_or_default(), None)?;
        if !program.is_ours() {
            return Err(program.foreign(
                interface,
                format!("{point}, priority {PRIORITY}, handle {handle:#x}"),
            ));
        }
        return Ok(Some(program));
    }
    Ok(None)
}

/// Puts a program in our place, instead of what was there.
pub(crate) fn attach(
    interface: &str,
    ifindex: u32,
    point: Point,
    program: BorrowedFd<'_>,
) -> Result<(), Error> {
    point
        .hook(ifindex, program)
        .attach()
        .map(drop)
        .map_err(|error| {
            Error::from_libbpf(format!("{interface}: attaching the {point} filter"), &error)
        })
}

/// Removes our filter.
pub(crate) fn detach(
    interface: &str,
    ifindex: u32,
    point: Point,
    program: &ProgramInfo,
) -> Result<(), Error> {
    let fd = program.open()?;
    point.hook(ifindex, fd.as_fd()).detach().map_err(|error| {
        Error::from_libbpf(format!("{interface}: removing the {point} filter"), &error)
    })
}

/// Removes clsact if no filter hangs on it and no block is shared by it.
/// Whether it is gone.
pub(crate) fn remove_unused(interface: &str, ifindex: u32) -> Result<bool, Error> {
    match qdisc::attached(interface, ifindex)? {
        Some(clsact) if clsact.kind == "clsact" && !clsact.shared => {}
        _ => return Ok(false),
    }
    for point in Point::ALL {
        // Each priority announces itself by a record without a handle; an emptied
        // one is gone before this asks.
        let others: Vec<Filter> = qdisc::filters(interface, ifindex, point.parent())?;
        if !others.is_empty() {
            return Ok(false);
        }
    }
    qdisc::remove(interface, ifindex)?;
    Ok(true)
}

/// Makes sure that clsact is there. Whether it was made.
pub(crate) fn ensure_clsact(interface: &str, ifindex: u32) -> Result<bool, Error> {
    match qdisc::attached(interface, ifindex)? {
        None => qdisc::create(interface, ifindex).map(|()| true),
        Some(found) if found.kind == "clsact" => Ok(false),
        Some(found) => Err(Error::Occupied {
            interface: interface.into(),
            what: format!(
                "a qdisc of kind \"{}\" stands where clsact must",
                found.kind
            ),
            cure: format!("remove it: tc qdisc del dev {interface} ingress"),
        }),
    }
}
