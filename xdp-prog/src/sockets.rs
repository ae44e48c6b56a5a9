//! Which watched sockets have been closed, by whatever way their last descriptor went.
//!
//! Invariant: a watched socket that closes is told once by [`SocketWatch::closed`], or that
//! says that some were lost. Never here: what a socket is, or what its end means.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libbpf_rs::{
    ErrorKind, Link, MapCore, MapFlags, MapHandle, MapType, Object, OpenObject, ProgramType,
};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::object::Blueprint;
use crate::senders::{SocketMaps, ended_of};
use crate::{Error, records};

static BLUEPRINT: Blueprint = Blueprint {
    name: "sockets",
    elf: include_bytes!(concat!(env!("OUT_DIR"), "/sockets.bpf.o")),
    counters: &[],
};

const COOKIE_BYTES: usize = 8;
/// The queue is allocated whole, 8 bytes each.
const MOST: u32 = 1 << 24;

/// Keys of the program's map `lost`: the queue was full, or the cookie could not be moved.
const QUEUE_FULL: u32 = 0;
const STILL_WATCHED: u32 = 1;

/// What else [`SocketWatch::closed`] has to say.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[must_use]
pub struct News {
    /// Some closes were lost since the last call: ask the kernel about all sockets, and
    /// remove those that are gone.
    pub lost: bool,
    /// There may be more: ask again.
    pub more: bool,
}

/// Tells which watched sockets have been closed: of every process whose control group is below
/// the root that the caller sees, in whatever network namespace. Held by a descriptor: with
/// the caller it is gone.
pub struct SocketWatch {
    maps: SocketMaps,
    closed: MapHandle,
    lost: MapHandle,
    /// By the keys of the map.
    lost_so_far: [u64; 2],
    /// Watched, or closed and not yet told.
    held: u64,
    // Before the object, whose program it runs.
    _link: Link,
    _object: Object,
}

impl SocketWatch {
    /// Begins to watch. At most so many sockets at a time.
    pub fn attach(most: u32) -> Result<Self, Error> {
        records::limit(|| "watched sockets".into(), most as usize, MOST as usize)?;
        let mut open = BLUEPRINT.open()?;
        size(&mut open, most.max(1))?;
        let object = open.load().map_err(|error| explain(&error))?;
        let link = link(&object, &root("cgroup2")?)?;
        Ok(Self {
            maps: SocketMaps::of(&BLUEPRINT, &object)?,
            closed: BLUEPRINT.map(&object, "closed", COOKIE_BYTES)?,
            lost: BLUEPRINT.map(&object, "lost", 8)?,
            lost_so_far: [0; 2],
            held: 0,
            _link: link,
            _object: object,
        })
    }

    /// What the programs of a port need to know of the sockets.
    #[must_use]
    pub fn maps(&self) -> SocketMaps {
        self.maps.clone()
    }

    /// Watches a socket. With `shows`, what it opens leaves by an endpoint that is diverted or
    /// not at all. Once more, it changes that.
    ///
    /// The caller holds a descriptor of the socket for as long as the first call takes: one that
    /// closed before is never told. One that closed while it was watched is refused.
    pub fn add(&mut self, cookie: u64, shows: bool) -> Result<(), Error> {
        let what = || format!("watching the socket with cookie {cookie}");
        let is_new = match self.maps.put(cookie, shows) {
            Ok(is_new) => is_new,
            Err(_) if self.held >= u64::from(self.maps.most()) => {
                let most = self.maps.most() as usize;
                return Err(Error::TooMany {
                    what: what(),
                    asked: most + 1,
                    most,
                });
            }
            Err(error) => return Err(Error::from_libbpf(what(), &error)),
        };
        self.held += u64::from(is_new);
        let ended = self.maps.has_ended(cookie);
        if ended.map_err(|error| Error::from_libbpf(what(), &error))? {
            // One that is just closing is the program's to take out.
            if is_new {
                self.remove(cookie);
            }
            let what = format!("{}: it has been closed", what());
            return Err(Error::Invalid { what });
        }
        Ok(())
    }

    /// Watches a socket no longer. If it has closed already, it is told nevertheless.
    pub fn remove(&mut self, cookie: u64) {
        match self.maps.take(cookie) {
            Ok(was_there) => self.held = self.held.saturating_sub(u64::from(was_there)),
            Err(error) => tracing::warn!("socket {cookie} stays watched: {error}"),
        }
    }

    /// Calls `each` for every cookie closed since, but for no more than `most` (at least one).
    /// Takes three system calls if nothing closed.
    pub fn closed(&mut self, most: usize, mut each: impl FnMut(u64)) -> Result<News, Error> {
        let most = most.max(1);
        let mut taken = 0;
        while taken < most {
            let cookie = self.closed.lookup_and_delete(&[]);
            let cookie = cookie.map_err(|error| asked_in_vain(&error))?;
            let Some(cookie) = cookie.as_deref().and_then(number) else {
                break;
            };
            taken += 1;
            self.held = self.held.saturating_sub(1);
            each(cookie);
        }
        // What is still watched is held until it is removed.
        let full = self.newly_lost(QUEUE_FULL)?;
        self.held = self.held.saturating_sub(full);
        let lost = full > 0;
        Ok(News {
            lost: self.newly_lost(STILL_WATCHED)? > 0 || lost,
            more: taken == most,
        })
    }

    /// Of the closes that are not in the queue, those since the last call.
    fn newly_lost(&mut self, why: u32) -> Result<u64, Error> {
        let lost = self.lost.lookup(&why.to_ne_bytes(), MapFlags::ANY);
        let lost = lost.map_err(|error| asked_in_vain(&error))?;
        let lost = lost.as_deref().and_then(number).unwrap_or_default();
        let so_far = &mut self.lost_so_far[why as usize];
        Ok(lost.wrapping_sub(std::mem::replace(so_far, lost)))
    }
}

fn size(open: &mut OpenObject, most: u32) -> Result<(), Error> {
    for (name, entries) in [
        ("watched", most),
        ("closed", most),
        ("ended", ended_of(most)),
    ] {
        open.maps_mut()
            .find(|map| map.name() == name)
            .and_then(|mut map| map.set_max_entries(entries).ok())
            .ok_or_else(|| BLUEPRINT.lacks(&format!("map \"{name}\"")))?;
    }
    Ok(())
}

fn link(object: &Object, root: &OwnedFd) -> Result<Link, Error> {
    let program = object
        .progs_mut()
        .find(|program| program.name() == "xtp_closed")
        .ok_or_else(|| BLUEPRINT.lacks("program \"xtp_closed\""))?;
    program
        .attach_cgroup(root.as_raw_fd())
        .map_err(|error| company("watching sockets from the root control group", &error))
}

/// Why a program could not be attached to the root control group.
pub(crate) fn company(what: &str, error: &libbpf_rs::Error) -> Error {
    match error.kind() {
        // Who may load the program may attach it, unless somebody forbids company.
        ErrorKind::PermissionDenied => Error::Unsupported {
            what: format!("{what}: another program is attached there that allows no second"),
            cure: "find it with `bpftool cgroup tree`, and attach it with BPF_F_ALLOW_MULTI or not at all".into(),
        },
        _ => Error::from_libbpf(what, error),
    }
}

/// The root of the control groups that this process sees, whether or not it is mounted where
/// the process can see that: `ip netns exec` hides it.
pub(crate) fn root(filesystem: &str) -> Result<OwnedFd, Error> {
    let opened = fsopen(filesystem, FsOpenFlags::FSOPEN_CLOEXEC).and_then(|context| {
        fsconfig_create(context.as_fd())?;
        let (cloexec, plain) = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
        let mount = fsmount(context.as_fd(), cloexec, plain)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(mount, ".", flags, Mode::empty())
    });
    let what = "opening the root control group to watch sockets";
    opened.map_err(|errno| match errno {
        Errno::NODEV | Errno::NOSYS => Error::Unsupported {
            what: format!("{what}: the kernel has no file system \"{filesystem}\""),
            cure: "use a kernel of 5.9 or later with CONFIG_CGROUPS and CONFIG_CGROUP_BPF".into(),
        },
        _ => Error::from_io(what, errno.into()),
    })
}

/// Loading failed: is it a feature that the kernel does not have?
fn explain(error: &libbpf_rs::Error) -> Error {
    let what = "loading the BPF object \"sockets\"";
    let features = [
        (
            "programs of control groups (CONFIG_CGROUP_BPF)",
            ProgramType::CgroupSock.is_supported(),
        ),
        ("queue maps", MapType::Queue.is_supported()),
    ];
    for (feature, supported) in features {
        if matches!(supported, Ok(false)) {
            return Error::Unsupported {
                what: format!("{what}: {feature}"),
                cure: "use a kernel of 5.9 or later with CONFIG_BPF_SYSCALL and CONFIG_CGROUP_BPF"
                    .into(),
            };
        }
    }
    Error::from_libbpf(what, error)
}

fn asked_in_vain(error: &libbpf_rs::Error) -> Error {
    Error::from_libbpf("asking which sockets have closed", error)
}

fn number(bytes: &[u8]) -> Option<u64> {
    bytes.first_chunk().copied().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use libbpf_rs::Program;

    use super::*;

    #[test]
    fn a_kernel_without_control_groups_is_named() {
        let error = root("xtp-no-such-fs").unwrap_err();
        assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
        let said = error.to_string();
        assert!(
            said.contains("xtp-no-such-fs") && said.contains("CONFIG_CGROUP_BPF"),
            "{said}"
        );
    }

    #[test]
    fn the_program_goes_with_its_watch() {
        let watch = SocketWatch::attach(1).unwrap();
        let program = watch._object.progs().next().unwrap();
        let id = Program::id_from_fd(program.as_fd()).unwrap();
        assert!(Program::fd_from_id(id).is_ok());
        drop(watch);
        let end = Instant::now() + Duration::from_secs(10);
        while Program::fd_from_id(id).is_ok() {
            assert!(Instant::now() < end, "the program {id} is still there");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
