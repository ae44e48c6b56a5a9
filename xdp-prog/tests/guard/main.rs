//! The guard where packets leave, and with real sockets: whose they are, and what gets through
//! without the daemon.

#[path = "../fixture/mod.rs"]
mod fixture;
mod leaving;
mod live;
#[path = "../netns/mod.rs"]
mod netns;
mod owners;
mod toggling;
#[path = "../wires/mod.rs"]
mod wires;

use std::os::fd::{AsFd, OwnedFd};

use fixture::{NIC, OWN, no_endpoints, no_sockets, taken, xsk};
use xdp_prog::{Guard, Mode, PortConfig, PortProgram};

fn guard(is_on: bool) -> Guard {
    Guard {
        on: is_on,
        owners: Vec::new(),
        epoch: false,
    }
}

/// A port that is guarded from its first frame on; UDP 9000 is taken.
fn guarded(lab: &wires::Lab, mode: Mode, open: bool) -> (PortProgram, OwnedFd) {
    let config = PortConfig {
        interface: "nic".into(),
        ifindex: lab.nic,
        mac: NIC,
        mode,
        open,
        host_ifindex: lab.host,
        ..fixture::config()
    };
    let mut port = PortProgram::load(&config, &no_endpoints(), &no_sockets()).unwrap();
    let socket = xsk();
    port.set_socket(0, socket.as_fd()).unwrap();
    port.set_addresses(&[(OWN, vec![taken(fixture::UDP, 9000..=9000)])], &[])
        .unwrap();
    port.set_guard(&guard(true)).unwrap();
    port.attach().unwrap();
    (port, socket)
}
