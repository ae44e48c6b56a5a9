//! What an interface is called in messages.

use rustix::net::netdevice::index_to_name;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

/// The interface's name, or what there is to say of one that is gone.
pub(crate) fn name(ifindex: u32) -> String {
    socket_with(
        AddressFamily::INET,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
    .and_then(|socket| index_to_name(socket, ifindex))
    .unwrap_or_else(|_| format!("interface {ifindex}"))
}
