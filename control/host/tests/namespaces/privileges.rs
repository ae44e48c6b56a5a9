use host::{check_kernel, require_privileges};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// What `check` says in a thread that lacks these capabilities.
fn without(
    lost: CapabilitySet,
    check: impl FnOnce() -> Result<(), host::Error> + Send,
) -> Option<String> {
    std::thread::scope(|scope| {
        let judged = scope.spawn(|| {
            let mut sets = capabilities(None).expect("this thread's");
            sets.effective.remove(lost);
            set_capabilities(None, sets).expect("fewer are always allowed");
            check().err().map(|error| error.to_string())
        });
        judged.join().expect("judged")
    })
}

#[test]
fn root_on_this_kernel_is_enough() {
    assert_eq!(without(CapabilitySet::empty(), require_privileges), None);
    assert_eq!(without(CapabilitySet::empty(), check_kernel), None);
    // CAP_SYS_ADMIN includes them.
    let bpf = CapabilitySet::BPF | CapabilitySet::PERFMON;
    assert_eq!(without(bpf, require_privileges), None);
}

#[test]
fn what_is_missing_is_named() {
    let says = |names: &str| {
        Some(format!(
            "xtproxyd needs {names}; run it as root or give it these capabilities"
        ))
    };
    assert_eq!(
        without(CapabilitySet::all(), require_privileges),
        says("CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN, CAP_SYS_PTRACE")
    );
    assert_eq!(
        without(CapabilitySet::NET_ADMIN, require_privileges),
        says("CAP_NET_ADMIN")
    );
    assert_eq!(
        without(CapabilitySet::SYS_ADMIN, require_privileges),
        says("CAP_SYS_ADMIN")
    );
    assert_eq!(
        without(CapabilitySet::SYS_PTRACE, require_privileges),
        says("CAP_SYS_PTRACE")
    );
    assert_eq!(
        without(CapabilitySet::NET_RAW, check_kernel),
        says("CAP_NET_RAW")
    );
}
