//! The two calls that libbpf-rs lacks: setting XDP with mode and expected
//! program together, and a query that needs no program.
#![allow(
    unsafe_code,
    reason = "libbpf-rs replaces only in the driver's default mode and queries only with a program at hand"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libbpf_sys::{bpf_xdp_attach_opts, bpf_xdp_query_opts};

/// Attaches `new`, or detaches if there is none. With `expected`, only if that
/// program is attached now (the flag XDP_FLAGS_REPLACE is libbpf's own doing).
pub(crate) fn set_xdp(
    ifindex: u32,
    new: Option<BorrowedFd<'_>>,
    flags: u32,
    expected: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    let opts = bpf_xdp_attach_opts {
        sz: size_of::<bpf_xdp_attach_opts>() as libbpf_sys::size_t,
        old_prog_fd: expected.map_or(0, |fd| fd.as_raw_fd()),
        ..Default::default()
    };
    let fd = new.map_or(-1, |fd| fd.as_raw_fd());
    // SAFETY: `opts` is initialised, carries its own size and outlives the call,
    // which keeps no pointer; both descriptors are borrowed, hence open.
    let ret =
        unsafe { libbpf_sys::bpf_xdp_attach(ifindex.cast_signed(), fd, flags, &raw const opts) };
    outcome(ret)
}

/// Which programs an interface has, by mode.
pub(crate) fn query_xdp(ifindex: u32) -> io::Result<bpf_xdp_query_opts> {
    let mut opts = bpf_xdp_query_opts {
        sz: size_of::<bpf_xdp_query_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    // SAFETY: `opts` is initialised, carries its own size and outlives the call,
    // which writes at most that many bytes into it.
    let ret = unsafe { libbpf_sys::bpf_xdp_query(ifindex.cast_signed(), 0, &raw mut opts) };
    outcome(ret).map(|()| opts)
}

fn outcome(ret: i32) -> io::Result<()> {
    if ret < 0 {
        return Err(io::Error::from_raw_os_error(-ret));
    }
    Ok(())
}
