//! What earlier loads left on an interface, found by name; and its removal. It
//! works in a process that attached nothing.

use crate::attach::remove_filter;
use crate::tc::{self, Point};
use crate::{Error, ProgramInfo, interface, messages, xdp};

/// Programs of ours on an interface.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stale {
    /// The XDP program.
    pub xdp: Option<ProgramInfo>,
    /// The filter at tc egress.
    pub tc_egress: Option<ProgramInfo>,
    /// The filter at tc ingress.
    pub tc_ingress: Option<ProgramInfo>,
    /// The filter that stands in for XDP while it changes its mode.
    pub tc_gap: Option<ProgramInfo>,
}

impl Stale {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Looks for programs of ours; foreign ones are no error, and not reported.
pub fn stale(ifindex: u32) -> Result<Stale, Error> {
    messages::divert();
    let interface = &interface::name(ifindex);
    Ok(Stale {
        xdp: xdp::attached(interface, ifindex)?
            .into_iter()
            .find(ProgramInfo::is_ours),
        tc_egress: find_filter(interface, ifindex, Point::Egress)?,
        tc_ingress: find_filter(interface, ifindex, Point::Ingress)?,
        tc_gap: find_filter(interface, ifindex, Point::Gap)?,
    })
}

/// Removes programs of ours, and clsact if it held one of ours and holds nothing
/// else. What was there.
pub fn detach_stale(ifindex: u32) -> Result<Stale, Error> {
    detach(&interface::name(ifindex), ifindex, true)
}

/// The same, leaving clsact alone on demand.
pub(crate) fn detach(interface: &str, ifindex: u32, with_clsact: bool) -> Result<Stale, Error> {
    let found = stale(ifindex)?;
    if let Some(program) = &found.xdp {
        xdp::detach(interface, ifindex, program)?;
    }
    let mut held_ours = false;
    for (point, program) in [
        (Point::Egress, &found.tc_egress),
        (Point::Ingress, &found.tc_ingress),
        (Point::Gap, &found.tc_gap),
    ] {
        held_ours |= program.is_some() && remove_filter(interface, ifindex, point)?;
    }
    if held_ours && with_clsact {
        tc::remove_unused(interface, ifindex)?;
    }
    Ok(found)
}

/// Somebody else's filter in our place is none of ours.
fn find_filter(interface: &str, ifindex: u32, point: Point) -> Result<Option<ProgramInfo>, Error> {
    match tc::ours_or_none(interface, ifindex, point) {
        Err(Error::Foreign { .. } | Error::Occupied { .. }) => Ok(None),
        found => found,
    }
}
