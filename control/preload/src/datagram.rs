//! `recvmsg` and `recvmmsg` on a socket that wants the original addresses.
//!
//! The call is made with headers of our own, so that the source is known even if the program does
//! not want it. All that looks odd is given to the kernel as it is.
//!
//! Invariant: while the C library's function runs, nothing on our stack needs dropping: the
//! thread can be cancelled in there.

use std::ffi::{c_int, c_uint, c_void};
use std::mem::ManuallyDrop;
use std::net::{IpAddr, SocketAddr, SocketAddrV4};
use std::os::fd::RawFd;
use std::slice;

use libc::{mmsghdr, msghdr, ssize_t, timespec};
use rustix::io::Errno;

use crate::answers::{self, Original};
use crate::inside::{self, fail};
use crate::{control, facts, memory, real, wishes};

/// Length of `struct sockaddr_storage`.
const NAME: usize = 128;

/// As many messages as the kernel takes at once (`UIO_MAXIOV`).
const MESSAGES: c_uint = 1024;

/// One message: the program's header, the one for the kernel, and the place for the source.
#[derive(Clone, Copy)]
#[repr(C)]
struct Message {
    theirs: msghdr,
    name: [u8; NAME],
}

/// # Safety
/// As `recvmsg` of the C library.
pub unsafe fn receive(fd: RawFd, at: *mut msghdr, flags: c_int) -> ssize_t {
    let begun = inside::run(None, || {
        let cookie = wanted(fd, flags)?;
        let mut header = [0; size_of::<msghdr>()];
        memory::read(at as usize, &mut header).ok()?;
        Some((cookie, Message::new(parse(header))?))
    });
    let Some((cookie, mut message)) = begun else {
        // SAFETY: the caller's own call.
        return unsafe { real::recvmsg(fd, at, flags) };
    };
    let mut ours = message.header();
    // SAFETY: a copy of the caller's header, with a place for the source that is on our stack.
    let got = unsafe { real::recvmsg(fd, &raw mut ours, flags) };
    if got < 0 {
        return got;
    }
    let written = inside::run(Ok(()), || message.finish(fd, cookie, &ours, at as usize));
    written.map_or_else(|errno| fail(errno.raw_os_error()) as ssize_t, |()| got)
}

/// # Safety
/// As `recvmmsg` of the C library.
pub unsafe fn receive_many(
    fd: RawFd,
    at: *mut mmsghdr,
    count: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    let begun = inside::run(None, || {
        let cookie = wanted(fd, flags)?;
        Some((cookie, Batch::read(at as usize, count)?))
    });
    let Some((cookie, batch)) = begun else {
        // SAFETY: the caller's own call.
        return unsafe { real::recvmmsg(fd, at, count, flags, timeout) };
    };
    let mut batch = ManuallyDrop::new(batch);
    let ours = batch.ours.as_mut_ptr();
    // SAFETY: copies of the caller's headers, as many as said, with places for the sources.
    let got = unsafe { real::recvmmsg(fd, ours, batch.ours.len() as c_uint, flags, timeout) };
    let mut batch = ManuallyDrop::into_inner(batch);
    let written = inside::run(Ok(()), || batch.finish(fd, cookie, got, at as usize));
    inside::run((), || drop(batch));
    written.map_or_else(|errno| fail(errno.raw_os_error()), |()| got)
}

/// The socket's cookie, if its datagrams shall have the addresses. What the error queue holds are
/// not datagrams of others.
fn wanted(fd: RawFd, flags: c_int) -> Option<u64> {
    if flags & libc::MSG_ERRQUEUE != 0 {
        return None;
    }
    wishes::holds(fd)
}

impl Message {
    /// Nothing if the header is one that the kernel refuses.
    fn new(theirs: msghdr) -> Option<Self> {
        let is_sound = theirs.msg_name.is_null() || i32::try_from(theirs.msg_namelen).is_ok();
        is_sound.then_some(Self {
            theirs,
            name: [0; NAME],
        })
    }

    /// The header for the kernel. It points into this value.
    fn header(&mut self) -> msghdr {
        msghdr {
            msg_name: self.name.as_mut_ptr().cast::<c_void>(),
            msg_namelen: NAME as u32,
            ..self.theirs
        }
    }

    /// Gives the program what the kernel gave us, and the control message.
    fn finish(&mut self, fd: RawFd, cookie: u64, ours: &msghdr, at: usize) -> Result<(), Errno> {
        let known = (ours.msg_namelen as usize).min(NAME);
        let shown = source(&self.name[..known]);
        let original = shown.and_then(|shown| answers::of(fd, cookie, shown));
        let mut theirs = self.theirs;
        theirs.msg_flags = ours.msg_flags;
        theirs.msg_controllen = ours.msg_controllen;
        let mut name: &[u8] = &[];
        if !theirs.msg_name.is_null() {
            let room = theirs.msg_namelen as usize;
            name = &self.name[..known.min(room)];
            theirs.msg_namelen = ours.msg_namelen;
        }
        let (control_at, control) = self.control(&mut theirs, original);
        memory::write(&[
            (theirs.msg_name as usize, name),
            (
                control_at,
                control.as_ref().map_or(&[], |bytes| bytes.as_slice()),
            ),
            (at, bytes_of(&theirs)),
        ])
    }

    /// The control message and where it goes. Without room for it the header says so.
    fn control(
        &self,
        theirs: &mut msghdr,
        original: Option<Original>,
    ) -> (usize, Option<[u8; control::LEN]>) {
        let Some(original) = original else {
            return (0, None);
        };
        let start = self.theirs.msg_control as usize;
        let room = if start == 0 {
            0
        } else {
            self.theirs.msg_controllen
        };
        let Some((at, used)) = control::place(theirs.msg_controllen, room) else {
            theirs.msg_flags |= libc::MSG_CTRUNC;
            return (0, None);
        };
        theirs.msg_controllen = used;
        (start + at, Some(control::message(original)))
    }
}

/// What `recvmmsg` is asked for.
struct Batch {
    messages: Vec<Message>,
    ours: Vec<mmsghdr>,
}

impl Batch {
    /// Nothing if the kernel shall answer.
    fn read(at: usize, count: c_uint) -> Option<Self> {
        let count = count.min(MESSAGES) as usize;
        let mut messages = Vec::with_capacity(count);
        for idx in 0..count {
            let mut header = [0; size_of::<msghdr>()];
            memory::read(place(at, idx)?, &mut header).ok()?;
            messages.push(Message::new(parse(header))?);
        }
        let whole = |message: &mut Message| mmsghdr {
            msg_hdr: message.header(),
            msg_len: 0,
        };
        let ours = messages.iter_mut().map(whole).collect();
        Some(Self { messages, ours })
    }

    /// Gives the program as many messages as came.
    fn finish(&mut self, fd: RawFd, cookie: u64, got: c_int, at: usize) -> Result<(), Errno> {
        let got = usize::try_from(got).unwrap_or(0);
        let both = self.messages.iter_mut().zip(&self.ours);
        for (idx, (message, ours)) in both.take(got).enumerate() {
            let at = place(at, idx).ok_or(Errno::FAULT)?;
            message.finish(fd, cookie, &ours.msg_hdr, at)?;
            let len = ours.msg_len.to_ne_bytes();
            memory::write(&[(at + std::mem::offset_of!(mmsghdr, msg_len), &len)])?;
        }
        Ok(())
    }
}

/// Where the header of this number is.
fn place(at: usize, idx: usize) -> Option<usize> {
    at.checked_add(idx * size_of::<mmsghdr>())
}

/// The source that a `struct sockaddr` names, if it is IPv4.
fn source(name: &[u8]) -> Option<SocketAddrV4> {
    let (family, rest) = name.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let port = u16::from_be_bytes(*port);
    let ip = match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => IpAddr::from(*rest.first_chunk::<4>()?),
        libc::AF_INET6 => IpAddr::from(*rest.get(4..)?.first_chunk::<16>()?),
        _ => return None,
    };
    facts::v4(SocketAddr::new(ip, port))
}

fn parse(bytes: [u8; size_of::<msghdr>()]) -> msghdr {
    // SAFETY: the same length, and every pattern is one: integers, and pointers that nobody but the
    // kernel follows. What is no field is not read.
    unsafe { std::mem::transmute::<[u8; size_of::<msghdr>()], msghdr>(bytes) }
}

fn bytes_of(header: &msghdr) -> &[u8] {
    let start = std::ptr::from_ref(header).cast::<u8>();
    // SAFETY: as long as the header is borrowed; its padding came as bytes from the program.
    unsafe { slice::from_raw_parts(start, size_of::<msghdr>()) }
}
