//! Puts a set of programs onto an interface, or none of them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::tc::{self, Point};
use crate::xdp::{self, Mode};
use crate::{Error, ProgramInfo};

/// What an interface shall have. What is not wanted and ours goes.
pub(crate) struct Wanted<'a> {
    pub(crate) interface: &'a str,
    pub(crate) ifindex: u32,
    pub(crate) ingress: Option<BorrowedFd<'a>>,
    pub(crate) egress: Option<BorrowedFd<'a>>,
    pub(crate) xdp: Option<(Mode, BorrowedFd<'a>)>,
}

/// A step to take back when a later one fails.
enum Undo {
    RemoveFilter(Point),
    RestoreFilter(Point, OwnedFd),
    RemoveClsact,
}

impl Wanted<'_> {
    /// Attaches all, XDP last. Whether clsact was made for it or by an earlier us.
    pub(crate) fn attach(&self) -> Result<bool, Error> {
        let stale = self.look()?;
        let ours_before = stale.iter().any(|(_, program)| program.is_some());
        let mut undo = Vec::new();
        let attached = self.attach_filters(&stale, &mut undo).and_then(|created| {
            if let Some((mode, program)) = self.xdp {
                xdp::attach(self.interface, self.ifindex, mode, program)?;
            }
            Ok(created || ours_before)
        });
        if attached.is_err() {
            undo.into_iter().rev().for_each(|step| self.take_back(step));
        }
        attached
    }

    /// Refuses before anything is touched, where something foreign is in the way.
    fn look(&self) -> Result<[(Point, Option<ProgramInfo>); 2], Error> {
        if self.xdp.is_some() {
            xdp::ours_or_none(self.interface, self.ifindex)?;
        }
        let mut stale = Point::ALL.map(|point| (point, None));
        for (point, program) in &mut stale {
            *program = tc::ours_or_none(self.interface, self.ifindex, *point)?;
        }
        Ok(stale)
    }

    fn attach_filters(
        &self,
        stale: &[(Point, Option<ProgramInfo>); 2],
        undo: &mut Vec<Undo>,
    ) -> Result<bool, Error> {
        let wanted = |point| match point {
            Point::Ingress => self.ingress,
            Point::Egress => self.egress,
        };
        let mut created = false;
        if Point::ALL.into_iter().any(|point| wanted(point).is_some()) {
            created = tc::ensure_clsact(self.interface, self.ifindex)?;
        }
        if created {
            undo.push(Undo::RemoveClsact);
        }
        for (point, old) in stale {
            let old_fd = old.as_ref().map(ProgramInfo::open).transpose()?;
            match (wanted(*point), old) {
                (Some(program), _) => tc::attach(self.interface, self.ifindex, *point, program)?,
                (None, Some(old)) => tc::detach(self.interface, self.ifindex, *point, old)?,
                (None, None) => continue,
            }
            undo.push(old_fd.map_or(Undo::RemoveFilter(*point), |fd| {
                Undo::RestoreFilter(*point, fd)
            }));
        }
        Ok(created)
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
        };
        if let Err(error) = outcome {
            tracing::error!("taking back a failed attachment: {error}");
        }
    }
}

/// Removes our filter, if it is there. Whether it was.
pub(crate) fn remove_filter(interface: &str, ifindex: u32, point: Point) -> Result<bool, Error> {
    let Some(program) = tc::ours_or_none(interface, ifindex, point)? else {
        return Ok(false);
    };
    tc::detach(interface, ifindex, point, &program).map(|()| true)
}
