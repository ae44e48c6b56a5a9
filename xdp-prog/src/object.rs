//! One loaded BPF object: its settings, maps and programs by name.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libbpf_rs::{
    MapCore, MapFlags, MapHandle, MapType, Object, ObjectBuilder, OpenObject, ProgramInput,
    ProgramMut, ProgramType,
};
use rustix::thread::CapabilitySet;

use crate::{Error, counters, messages};

/// What a program makes of a frame, without a NIC.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DryRun {
    /// The program's return code: `XDP_*` or `TC_ACT_*`.
    pub verdict: u32,
    /// The frame afterwards; with XDP metadata before it, if there is any.
    pub frame: Vec<u8>,
}

/// What a built-in object is made of.
pub(crate) struct Blueprint {
    pub(crate) name: &'static str,
    pub(crate) elf: &'static [u8],
    pub(crate) counters: &'static [&'static str],
}

pub(crate) struct Loaded {
    blueprint: &'static Blueprint,
    object: Object,
    xsks: MapHandle,
    counters: MapHandle,
}

impl Blueprint {
    /// Loads the object with its settings, a socket map for `queues`, and maps that it shares
    /// with other objects in the place of its own.
    pub(crate) fn load(
        &'static self,
        settings: &[u8],
        queues: u32,
        shared: &[(&str, BorrowedFd<'_>)],
    ) -> Result<Loaded, Error> {
        let mut open = self.open()?;
        self.configure(&mut open, settings, queues)?;
        for (name, map) in shared {
            open.maps_mut()
                .find(|own| own.name() == *name)
                .ok_or_else(|| self.lacks(&format!("map \"{name}\"")))?
                .reuse_fd(*map)
                .map_err(|error| Error::from_libbpf(format!("sharing the map {name}"), &error))?;
        }
        let object = open.load().map_err(|error| self.explain(&error))?;
        let counters = self.map(&object, "counters", 8)?;
        if counters.max_entries() as usize != self.counters.len() {
            return Err(self.lacks("map \"counters\""));
        }
        Ok(Loaded {
            blueprint: self,
            xsks: self.map(&object, "xsks", 4)?,
            counters,
            object,
        })
    }

    /// Opens the object; nothing is loaded yet.
    pub(crate) fn open(&self) -> Result<OpenObject, Error> {
        messages::divert();
        require_privilege(&format!("loading the BPF object \"{}\"", self.name))?;
        ObjectBuilder::default()
            .open_memory(self.elf)
            .map_err(|_| self.lacks("ELF image"))
    }

    fn configure(&self, open: &mut OpenObject, settings: &[u8], queues: u32) -> Result<(), Error> {
        let mut configured = false;
        for mut map in open.maps_mut() {
            let name = map.name().to_string_lossy().into_owned();
            if name.ends_with(".rodata") {
                map.set_initial_value(settings)
                    .map_err(|_| self.lacks("settings record"))?;
                configured = true;
            } else if name == "xsks" {
                map.set_max_entries(queues.max(1))
                    .map_err(|_| self.lacks("map \"xsks\""))?;
            }
        }
        if configured {
            Ok(())
        } else {
            Err(self.lacks("settings record"))
        }
    }

    /// A map whose values have the size that the loader writes.
    pub(crate) fn map(
        &self,
        object: &Object,
        name: &str,
        value_bytes: usize,
    ) -> Result<MapHandle, Error> {
        let map = object
            .maps()
            .find(|map| map.name() == name)
            .filter(|map| map.value_size() as usize == value_bytes)
            .ok_or_else(|| self.lacks(&format!("map \"{name}\"")))?;
        MapHandle::try_from(&map)
            .map_err(|error| Error::from_libbpf(format!("opening the map {name}"), &error))
    }

    pub(crate) fn lacks(&self, part: &str) -> Error {
        Error::Object {
            object: self.name,
            part: part.to_owned(),
        }
    }

    /// Loading failed: is it a feature that the kernel does not have?
    fn explain(&self, error: &libbpf_rs::Error) -> Error {
        let what = format!("loading the BPF object \"{}\"", self.name);
        let features = [
            ("XDP programs", ProgramType::Xdp.is_supported()),
            ("tc programs", ProgramType::SchedCls.is_supported()),
            ("AF_XDP socket maps", MapType::Xskmap.is_supported()),
        ];
        for (feature, supported) in features {
            if matches!(supported, Ok(false)) {
                return Error::Unsupported {
                    what: format!("{what}: {feature}"),
                    cure: "use a kernel with CONFIG_BPF_SYSCALL, CONFIG_XDP_SOCKETS and CONFIG_NET_CLS_BPF".into(),
                };
            }
        }
        Error::from_libbpf(what, error)
    }
}

impl Loaded {
    pub(crate) fn map(&self, name: &str, value_bytes: usize) -> Result<MapHandle, Error> {
        self.blueprint.map(&self.object, name, value_bytes)
    }

    /// A program by the name of its function.
    pub(crate) fn program(&self, name: &str) -> Result<ProgramMut<'_>, Error> {
        self.object
            .progs_mut()
            .find(|program| program.name() == name)
            .ok_or_else(|| self.blueprint.lacks(&format!("program \"{name}\"")))
    }

    pub(crate) fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> Result<(), Error> {
        if queue >= self.xsks.max_entries() {
            return Err(Error::Invalid {
                what: format!(
                    "queue {queue}: the port was loaded for {} queues",
                    self.xsks.max_entries()
                ),
            });
        }
        self.xsks
            .update(
                &queue.to_ne_bytes(),
                &socket.as_fd().as_raw_fd().to_ne_bytes(),
                MapFlags::ANY,
            )
            .map_err(|error| {
                Error::from_libbpf(format!("setting the socket of queue {queue}"), &error)
            })
    }

    pub(crate) fn counters(&self) -> Result<Vec<(&'static str, u64)>, Error> {
        counters::read(&self.counters, self.blueprint.counters)
    }

    pub(crate) fn dry_run(&self, program: &str, frame: &[u8]) -> Result<DryRun, Error> {
        // Room for XDP metadata, which the kernel hands back before the frame.
        let mut out = vec![0; frame.len() + 256];
        let output = self
            .program(program)?
            .test_run(ProgramInput {
                data_in: Some(frame),
                data_out: Some(&mut out),
                ..Default::default()
            })
            .map_err(|error| Error::from_libbpf(format!("running {program}"), &error))?;
        let frame = output.data.map(|data| data.to_vec()).unwrap_or_default();
        Ok(DryRun {
            verdict: output.return_value,
            frame,
        })
    }
}

/// The verifier's refusals look like missing privilege, so ask for that first.
pub(crate) fn require_privilege(what: &str) -> Result<(), Error> {
    let held = rustix::thread::capabilities(None)
        .map_err(|errno| Error::from_io(what, errno.into()))?
        .effective;
    let bpf = held.contains(CapabilitySet::SYS_ADMIN)
        || held.contains(CapabilitySet::BPF | CapabilitySet::PERFMON);
    if bpf && held.contains(CapabilitySet::NET_ADMIN) {
        return Ok(());
    }
    Err(Error::Permission { what: what.into() })
}
