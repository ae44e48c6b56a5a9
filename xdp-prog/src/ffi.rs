//! The calls that libbpf-rs lacks: setting XDP with mode and expected program
//! together, a query that needs no program, and the name of one program.
#![allow(
    unsafe_code,
    reason = "libbpf-rs replaces only in the driver's default mode and queries only with a program at hand; its list of programs hides why it ends"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use libbpf_sys::{bpf_prog_info, bpf_xdp_attach_opts, bpf_xdp_query_opts};

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

/// A program's name as the kernel knows it.
pub(crate) fn program_name(program: BorrowedFd<'_>) -> io::Result<String> {
    let mut info = bpf_prog_info::default();
    let mut len = size_of::<bpf_prog_info>() as u32;
    // SAFETY: `info` is zeroed, so that it names no buffer for the kernel to write to; `len` is
    // its size, beyond which nothing is written; both outlive the call.
    let ret = unsafe {
        libbpf_sys::bpf_prog_get_info_by_fd(program.as_raw_fd(), &raw mut info, &raw mut len)
    };
    outcome(ret)?;
    let name = info.name.iter().map(|byte| byte.cast_unsigned());
    let name: Vec<u8> = name.take_while(|byte| *byte != 0).collect();
    Ok(String::from_utf8_lossy(&name).into_owned())
}

fn outcome(ret: i32) -> io::Result<()> {
    if ret < 0 {
        return Err(io::Error::from_raw_os_error(-ret));
    }
    Ok(())
}
