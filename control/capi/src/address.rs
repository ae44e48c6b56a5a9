//! Addresses as C has them.

use std::net::{Ipv4Addr, SocketAddrV4};

use libc::{AF_INET, in_addr, sockaddr_in};

use crate::failure::Failure;

/// Reads an address; none if the pointer is NULL.
///
/// # Safety
/// The pointer is NULL or points to as many bytes as an address has.
pub(crate) unsafe fn read(from: *const sockaddr_in) -> Result<Option<SocketAddrV4>, Failure> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: not NULL, so it points to an address by this function's contract; every pattern of
    // bytes is one, and it need not be aligned.
    let found = unsafe { from.read_unaligned() };
    if i32::from(found.sin_family) != AF_INET {
        let line = format!("an address is of family {}, not AF_INET", found.sin_family);
        return Err(Failure::new(libc::EAFNOSUPPORT, line));
    }
    let ip = Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr));
    Ok(Some(SocketAddrV4::new(ip, u16::from_be(found.sin_port))))
}

/// Reads an address that must be there.
///
/// # Safety
/// As [`read`].
pub(crate) unsafe fn require(
    from: *const sockaddr_in,
    name: &str,
) -> Result<SocketAddrV4, Failure> {
    // SAFETY: this function's contract is the same.
    let found = unsafe { read(from) }?;
    found.ok_or_else(|| null(name))
}

/// Writes an address, if there is a place for it.
///
/// # Safety
/// The pointer is NULL or points to as many bytes as an address has, for writing.
pub(crate) unsafe fn write(to: *mut sockaddr_in, address: SocketAddrV4) {
    if to.is_null() {
        return;
    }
    let written = sockaddr_in {
        sin_family: AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: in_addr {
            s_addr: u32::from(*address.ip()).to_be(),
        },
        sin_zero: [0; 8],
    };
    // SAFETY: not NULL, so it points to room for an address by this function's contract.
    unsafe { to.write_unaligned(written) };
}

/// Writes a value.
///
/// # Safety
/// The pointer is NULL or points to room for the value.
pub(crate) unsafe fn put<T>(to: *mut T, value: T, name: &str) -> Result<(), Failure> {
    if to.is_null() {
        return Err(null(name));
    }
    // SAFETY: not NULL, so it points to room for the value by this function's contract.
    unsafe { to.write_unaligned(value) };
    Ok(())
}

pub(crate) fn null(name: &str) -> Failure {
    Failure::new(libc::EFAULT, format!("{name} is NULL"))
}
