//! Puts a set of programs onto an interface, or none of them.
//!
//! Invariant: where a steering program of ours stood, either one of ours or the gap's filter
//! stands at every moment.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::Duration;

use crate::tc::{self, Point};
use crate::xdp::{self, Mode};
use crate::{Error, ProgramInfo};

/// A packet that came before the new program may still wait in a queue between XDP and tc: the
/// filter stays for many times that wait.
const SETTLE: Duration = Duration::from_millis(100);

/// What an interface shall have. What is not wanted and ours goes.
pub(crate) struct Wanted<'a> {
    pub(crate) interface: &'a str,
    pub(crate) ifindex: u32,
    pub(crate) ingress: Option<BorrowedFd<'a>>,
    pub(crate) egress: Option<BorrowedFd<'a>>,
    /// What holds transit back while a change of mode leaves the interface without XDP.
    pub(crate) gap: Option<BorrowedFd<'a>>,
    pub(crate) xdp: Option<(Mode, BorrowedFd<'a>)>,
}

/// Programs of ours that are there already.
struct Found {
    xdp: Option<ProgramInfo>,
    filters: [(Point, Option<ProgramInfo>); Point::ALL.len()],
}

/// A step to take back when a later one fails.
enum Undo {
    RemoveFilter(Point),
    RestoreFilter(Point, OwnedFd),
    CloseGap,
    RemoveClsact,
}

impl Wanted<'_> {
    /// Attaches all, XDP last. Whether clsact was made for it or by an earlier us.
    pub(crate) fn attach(&self) -> Result<bool, Error> {
        let found = self.look()?;
        let ours_before = found.filters.iter().any(|(_, program)| program.is_some());
        let mut undo = Vec::new();
        let attached = self.attach_over(&found, &mut undo);
        if attached.is_err() {
            undo.into_iter().rev().for_each(|step| self.take_back(step));
        }
        let created = attached?;
        if self.bridges(&found).is_some() || found.at(Point::Gap).is_some() {
            self.close_gap()?;
        }
        Ok(created || ours_before)
    }

    /// Refuses before anything is touched, where something foreign is in the way.
    fn look(&self) -> Result<Found, Error> {
        let xdp = match self.xdp {
            Some(_) => xdp::ours_or_none(self.interface, self.ifindex)?,
            None => None,
        };
        let mut filters = Point::ALL.map(|point| (point, None));
        for (point, program) in &mut filters {
            *program = tc::ours_or_none(self.interface, self.ifindex, *point)?;
        }
        Ok(Found { xdp, filters })
    }

    fn attach_over(&self, found: &Found, undo: &mut Vec<Undo>) -> Result<bool, Error> {
        let mut created = false;
        let bridge = self.bridges(found);
        if self.ingress.or(self.egress).or(bridge).is_some() {
            created = tc::ensure_clsact(self.interface, self.ifindex)?;
        }
        if created {
            undo.push(Undo::RemoveClsact);
        }
        // Before the slow lane's filter goes: the old program may still rely on it.
        if let Some(gap) = bridge {
            tc::attach(self.interface, self.ifindex, Point::Gap, gap)?;
            undo.push(Undo::CloseGap);
        }
        self.attach_filter(Point::Ingress, self.ingress, found, undo)?;
        self.attach_filter(Point::Egress, self.egress, found, undo)?;
        if let Some((mode, program)) = self.xdp {
            xdp::attach(self.interface, self.ifindex, mode, program)?;
        }
        Ok(created)
    }

    /// What stands in while a stale program has to go before its successor can come.
    fn bridges(&self, found: &Found) -> Option<BorrowedFd<'_>> {
        let (mode, _) = self.xdp?;
        let stale = found.xdp.as_ref()?;
        self.gap.filter(|_| stale.mode != Some(mode))
    }

    fn attach_filter(
        &self,
        point: Point,
        wanted: Option<BorrowedFd<'_>>,
        found: &Found,
        undo: &mut Vec<Undo>,
    ) -> Result<(), Error> {
        let old = found.at(point);
        let old_fd = old.map(ProgramInfo::open).transpose()?;
        match (wanted, old) {
            (Some(program), _) => tc::attach(self.interface, self.ifindex, point, program)?,
            (None, Some(old)) => tc::detach(self.interface, self.ifindex, point, old)?,
            (None, None) => return Ok(()),
        }
        undo.push(old_fd.map_or(Undo::RemoveFilter(point), |fd| {
            Undo::RestoreFilter(point, fd)
        }));
        Ok(())
    }

    /// Removes the gap's filter, once there is a steering program again.
    fn close_gap(&self) -> Result<(), Error> {
        if xdp::ours_or_none(self.interface, self.ifindex)?.is_some() {
            thread::sleep(SETTLE);
            remove_filter(self.interface, self.ifindex, Point::Gap)?;
        }
        Ok(())
    }

    fn take_back(&self, step: Undo) {
        let outcome = match step {
            Undo::RestoreFilter(point, fd) => {
                tc::attach(self.interface, self.ifindex, point, fd.as_fd())
            }
            Undo::RemoveClsact => tc::remove_unused(self.interface, self.ifindex).map(drop),
            Undo::RemoveFilter(point) => {
                remove_filter(self.interface, self.ifindex, point).map(drop)
            }
            Undo::CloseGap => self.close_gap(),
        };
        if let Err(error) = outcome {
            tracing::error!("taking back a failed attachment: {error}");
        }
    }
}

impl Found {
    fn at(&self, point: Point) -> Option<&ProgramInfo> {
        let filter = self.filters.iter().find(|(at, _)| *at == point);
        filter.and_then(|(_, program)| program.as_ref())
    }
}

/// Removes our filter, if it is there. Whether it was.
pub(crate) fn remove_filter(interface: &str, ifindex: u32, point: Point) -> Result<bool, Error> {
    let Some(program) = tc::ours_or_none(interface, ifindex, point)? else {
        return Ok(false);
    };
    tc::detach(interface, ifindex, point, &program).map(|()| true)
}
