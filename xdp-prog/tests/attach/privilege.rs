//! Attaching with some capabilities only.

use std::thread;

use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use xdp_prog::{Endpoints, Error, Mode, SocketWatch, detach_stale, stale};

use crate::netns::isolated;
use crate::{GENERIC, NATIVE, attach, names, veth};

/// Does something in a thread that has no other capabilities.
fn with<T: Send + 'static>(
    effective: CapabilitySet,
    act: impl FnOnce() -> T + Send + 'static,
) -> T {
    let thread = thread::spawn(move || {
        let sets = capabilities(None).unwrap();
        set_capabilities(None, CapabilitySets { effective, ..sets }).unwrap();
        act()
    });
    thread.join().unwrap()
}

/// What the kernel does not let us see must be taken neither for nothing nor for a stranger's.
#[test]
fn without_cap_sys_admin_nobody_is_told_that_nothing_is_there() {
    isolated(|| {
        let nic = veth();
        attach(nic, Mode::Generic).unwrap();
        let before = stale(nic).unwrap();
        let bpf = CapabilitySet::BPF | CapabilitySet::PERFMON;
        let errors = with(CapabilitySet::NET_ADMIN | bpf, move || {
            [
                stale(nic).unwrap_err(),
                detach_stale(nic).unwrap_err(),
                attach(nic, Mode::Generic).unwrap_err(),
                attach(nic, Mode::Native).unwrap_err(),
            ]
        });
        for error in errors {
            assert!(matches!(error, Error::Permission { .. }), "{error:?}");
            assert!(error.to_string().contains("CAP_SYS_ADMIN"), "{error}");
        }
        assert_eq!(stale(nic).unwrap(), before);
    });
}

#[test]
fn without_privilege_neither_endpoints_nor_sockets_are_watched_over() {
    for held in [
        CapabilitySet::empty(),
        CapabilitySet::NET_ADMIN | CapabilitySet::BPF | CapabilitySet::PERFMON,
    ] {
        let error = with(held, || SocketWatch::attach(1).err());
        let error = error.expect("watching sockets needs privilege");
        assert!(matches!(error, Error::Permission { .. }), "{error:?}");
    }
    let error = with(CapabilitySet::empty(), || Endpoints::create(1).err());
    let error = error.expect("making a map needs privilege");
    assert!(matches!(error, Error::Permission { .. }), "{error:?}");
}

/// The bounding set of the unit that users start from.
fn of_the_example_unit() -> CapabilitySet {
    let unit = include_str!("../../../docs/examples/xtproxyd.service");
    let line = unit
        .lines()
        .find_map(|line| line.strip_prefix("CapabilityBoundingSet="))
        .unwrap();
    let one = |name: &str| CapabilitySet::from_name(name.strip_prefix("CAP_").unwrap()).unwrap();
    line.split(' ').map(one).collect()
}

#[test]
fn the_example_unit_has_the_capabilities_of_a_second_start_and_a_detach() {
    isolated(|| {
        let nic = veth();
        with(of_the_example_unit(), move || {
            for (mode, want) in [
                (Mode::Generic, GENERIC),
                (Mode::Generic, GENERIC),
                (Mode::Native, NATIVE),
            ] {
                attach(nic, mode).unwrap();
                assert_eq!(names(&stale(nic).unwrap()), want);
            }
            assert_eq!(names(&detach_stale(nic).unwrap()), NATIVE);
            assert!(stale(nic).unwrap().is_empty());
            Endpoints::create(1).unwrap();
            SocketWatch::attach(1).unwrap();
        });
    });
}
