//! A network of its own for a test: veth pairs, and a program that steers all into sockets.

use std::collections::HashSet;
use std::ffi::c_void;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::{io, ptr, thread};

use libbpf_sys as bpf;

use crate::{BindMode, Lane, LaneConfig, Region};

pub(super) const RING: u32 = 64;
const REDIRECT_MAP: u64 = 51;
const XDP_PASS: u64 = 2;

/// Runs a test in a thread with a network namespace that ends with it.
pub(super) fn in_network(test: impl FnOnce() + Send + 'static) {
    let inside = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
            .unwrap_or_else(|e| panic!("a network namespace needs root: {e}"));
        test();
    };
    if let Err(panic) = thread::spawn(inside).join() {
        std::panic::resume_unwind(panic);
    }
}

pub(super) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status();
    assert!(status.is_ok_and(|s| s.success()), "ip {arguments}");
}

/// Makes a pair of interfaces that are up and say nothing of their own.
pub(super) fn pair(one: &str, other: &str) {
    ip(&format!("link add {one} type veth peer name {other}"));
    for end in [one, other] {
        ip(&format!("link set {end} addrgenmode none"));
        ip(&format!("link set {end} up"));
    }
}

pub(super) fn region(frames: u32) -> Region {
    let frames = NonZeroU32::new(frames).expect("some frames");
    Region::new(frames, RING).expect("memory for a region")
}

pub(super) fn config(interface: &str, mode: BindMode) -> LaneConfig<'_> {
    LaneConfig {
        interface,
        queue: 0,
        ring: RING,
        fill: RING,
        mode,
    }
}

/// Opens a lane of the first registration and steers what the interface receives into it.
pub(super) fn first(region: &mut Region, interface: &str) -> Steered {
    let lane = Lane::open(region, &config(interface, BindMode::Copy)).expect("a lane");
    Steered::new(lane, interface)
}

/// The same of the second registration.
pub(super) fn second(region: &mut Region, interface: &str) -> Steered {
    let lane = Lane::open_second(region, &config(interface, BindMode::Copy)).expect("a lane");
    Steered::new(lane, interface)
}

/// A lane that gets what its interface receives. The program goes with the interface.
pub(super) struct Steered {
    pub(super) lane: Lane,
    _map: OwnedFd,
}

impl Steered {
    fn new(lane: Lane, interface: &str) -> Self {
        let map = socket_map(&lane);
        attach(&program(&map), interface);
        Self { lane, _map: map }
    }
}

fn own(what: &str, fd: i32) -> OwnedFd {
    assert!(fd >= 0, "{what}: {}", io::Error::last_os_error());
    // SAFETY: the kernel has just made this descriptor for us.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// A map from queue 0 to the lane's socket.
fn socket_map(lane: &Lane) -> OwnedFd {
    let kind = bpf::BPF_MAP_TYPE_XSKMAP;
    // SAFETY: no name and no options are allowed.
    let map = unsafe { bpf::bpf_map_create(kind, ptr::null(), 4, 4, 1, ptr::null()) };
    let map = own("a socket map", map);
    let (queue, socket) = (0_u32, lane.as_fd().as_raw_fd());
    let key = ptr::from_ref(&queue).cast::<c_void>();
    let value = ptr::from_ref(&socket).cast::<c_void>();
    // SAFETY: key and value are four bytes each, as the map has them.
    let set = unsafe { bpf::bpf_map_update_elem(map.as_raw_fd(), key, value, 0) };
    assert_eq!(set, 0, "the socket is in the map");
    map
}

/// `return bpf_redirect_map(map, context->rx_queue_index, XDP_PASS)`, in machine words:
/// operation, registers (destination low, source high), offset, immediate.
fn program(map: &OwnedFd) -> OwnedFd {
    let word = |operation: u64, registers: u64, offset: u64, immediate: u64| {
        operation | registers << 8 | offset << 16 | immediate << 32
    };
    let code = [
        word(0x61, 0x12, 16, 0),
        word(0x18, 0x11, 0, map.as_raw_fd() as u64),
        0,
        word(0xb7, 0x03, 0, XDP_PASS),
        word(0x85, 0, 0, REDIRECT_MAP),
        word(0x95, 0, 0, 0),
    ];
    // SAFETY: six instructions of eight bytes, and strings that end in a zero.
    let loaded = unsafe {
        bpf::bpf_prog_load(
            bpf::BPF_PROG_TYPE_XDP,
            c"steer".as_ptr(),
            c"GPL".as_ptr(),
            code.as_ptr().cast::<bpf::bpf_insn>(),
            code.len() as bpf::size_t,
            ptr::null_mut(),
        )
    };
    own("a program", loaded)
}

fn attach(program: &OwnedFd, interface: &str) {
    let asker = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::DGRAM,
        None,
    )
    .expect("a socket");
    let idx = rustix::net::netdevice::name_to_index(&asker, interface).expect("an interface");
    let native = bpf::XDP_FLAGS_DRV_MODE;
    // SAFETY: without options.
    let attached =
        unsafe { bpf::bpf_xdp_attach(idx as i32, program.as_raw_fd(), native, ptr::null()) };
    assert_eq!(attached, 0, "the program is on {interface}");
}

/// Ethernet frames that tests know again: a number, and room for a word of whoever passes them.
pub(super) struct Numbered;

impl Numbered {
    const TYPE: [u8; 2] = [0x88, 0xb5];

    /// The length of the frame with a number: all lengths that a link has come up.
    pub(super) fn len(number: u64) -> usize {
        60 + (number as usize * 37) % (1515 - 60)
    }

    pub(super) fn write(bytes: &mut [u8], number: u64) {
        bytes[..12].fill(0xff);
        bytes[12..14].copy_from_slice(&Self::TYPE);
        bytes[14..22].copy_from_slice(&number.to_be_bytes());
        bytes[22..30].fill(0);
        for (at, byte) in bytes.iter_mut().enumerate().skip(30) {
            *byte = (number as usize * 131 + at * 7) as u8;
        }
    }

    /// The number and the word of a frame that is whole, `None` of other traffic.
    pub(super) fn read(bytes: &[u8]) -> Option<(u64, u64)> {
        if bytes.get(12..14) != Some(&Self::TYPE) {
            return None;
        }
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight"));
        let number = word(14);
        assert_eq!(
            bytes.len(),
            Self::len(number),
            "frame {number} has its length"
        );
        let is_whole = |(at, byte): (usize, &u8)| *byte == (number as usize * 131 + at * 7) as u8;
        let mut rest = bytes.iter().enumerate().skip(30);
        assert!(rest.all(is_whole), "frame {number} has its bytes");
        Some((number, word(22)))
    }

    pub(super) fn stamp(bytes: &mut [u8], word: u64) {
        bytes[22..30].copy_from_slice(&word.to_be_bytes());
    }
}

/// Offsets of chunks that a lane is sending, each once.
#[derive(Default)]
pub(super) struct Sending(HashSet<usize>);

impl Sending {
    pub(super) fn add(&mut self, offset: usize) {
        assert!(self.0.insert(offset), "one chunk, one frame");
    }

    pub(super) fn done(&mut self, offset: usize) {
        assert!(self.0.remove(&offset), "the chunk that was sent");
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
