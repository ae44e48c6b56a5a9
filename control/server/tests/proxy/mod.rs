//! What a proxy does with its channel, in order and out of it.

#![allow(dead_code, reason = "no test file needs all of it")]

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use protocol::CLIENT_SOCKET;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use shm::{Access, ClientEnd, Handover, Operation, Reply, Request};
use socket2::{Domain, Socket, Type};

/// The line that asks for a channel.
pub const CHANNEL: &[u8] = b"{\"version\":1,\"request\":\"channel\"}\n";
/// The bits of TPROXY_FLAGS.
pub const CONNECT: u32 = 1;
pub const LISTEN: u32 = 2;
pub const ESTABLISHED: u32 = 4;
pub const ONCE: u32 = 0x1_0000;
pub const APPLIED: u32 = 0x4_0000;
pub const UNIDIR: u32 = 0x8_0000;
/// How long something may take that takes no time.
pub const SOON: Duration = Duration::from_secs(10);

/// Asks for a channel.
pub fn handover(dir: &Path) -> (Handover, UnixStream) {
    let mut stream = UnixStream::connect(dir.join(CLIENT_SOCKET)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.write_all(CHANNEL).unwrap();
    (Handover::receive(&stream).unwrap(), stream)
}

/// A socket bound to a port of 10.1.0.1.
pub fn bound(kind: Type) -> Socket {
    let socket = Socket::new(Domain::IPV4, kind, None).unwrap();
    let any: SocketAddr = "10.1.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket
}

/// Where a socket is bound.
pub fn local(socket: &Socket) -> SocketAddr {
    socket.local_addr().unwrap().as_socket().unwrap()
}

/// A proxy that keeps to the rules.
pub struct Proxy(ClientEnd);

impl Proxy {
    pub fn new(dir: &Path) -> Self {
        let (handover, stream) = handover(dir);
        Self(ClientEnd::map(handover, stream.into()).unwrap())
    }

    /// Asks, and takes an errno for an error.
    pub fn ask(
        &self,
        operation: Operation,
        access: Access,
        socket: &impl AsFd,
        fill: impl FnOnce(&mut Request),
    ) -> Result<Reply, i32> {
        let number = socket.as_fd().as_raw_fd();
        let mut request = Request::new(operation, access, number);
        fill(&mut request);
        let reply = self.0.call_within(&request, SOON).unwrap();
        if reply.errno == 0 {
            Ok(reply)
        } else {
            Err(reply.errno)
        }
    }

    pub fn set(
        &self,
        operation: Operation,
        socket: &impl AsFd,
        fill: impl FnOnce(&mut Request),
    ) -> Result<(), i32> {
        self.ask(operation, Access::Set, socket, fill).map(|_| ())
    }

    pub fn get(&self, operation: Operation, socket: &impl AsFd) -> Result<Reply, i32> {
        self.ask(operation, Access::Get, socket, |_| {})
    }

    /// By the number alone, whoever has it then.
    pub fn get_number(&self, operation: Operation, number: i32) -> Reply {
        let request = Request::new(operation, Access::Get, number);
        self.0.call_within(&request, SOON).unwrap()
    }

    pub fn assign(&self, socket: &impl AsFd, foreign: &str) -> Result<(), i32> {
        let foreign = Some(foreign.parse().unwrap());
        self.set(Operation::Assign, socket, |request| {
            request.foreign = foreign;
        })
    }

    pub fn flags(&self, socket: &impl AsFd, flags: u32) -> Result<(), i32> {
        self.set(Operation::Flags, socket, |request| request.flags = flags)
    }

    pub fn peer(&self, socket: &impl AsFd, peer: &str) -> Result<(), i32> {
        let peer = Some(peer.parse().unwrap());
        self.set(Operation::Connect, socket, |request| request.peer = peer)
    }

    pub fn foreign(&self, socket: &impl AsFd) -> Result<String, i32> {
        let reply = self.get(Operation::Query, socket)?;
        Ok(reply.foreign.unwrap().to_string())
    }
}

const POSTED_AT: u64 = 64;
const SLOTS_AT: u64 = 1024;
const SLOT_BYTES: u64 = 320;
const REQUEST_AT: u64 = 64;
const REPLY_AT: u64 = 192;

/// A channel without manners: its memory as a file, by the page of the protocol alone.
pub struct Raw {
    pub memory: File,
    pub bell: OwnedFd,
    pub stream: UnixStream,
    /// The last call of the first slot.
    calls: u32,
}

impl Raw {
    pub fn new(dir: &Path) -> Self {
        let (handover, stream) = handover(dir);
        Self::of(handover.memory.into(), handover.doorbell, stream)
    }

    pub fn of(memory: File, bell: OwnedFd, stream: UnixStream) -> Self {
        Self {
            memory,
            bell,
            stream,
            calls: 0,
        }
    }

    pub fn post(&self, bits: u64) {
        self.put(POSTED_AT, &bits.to_ne_bytes());
        self.ring();
    }

    pub fn ring(&self) {
        rustix::io::write(&self.bell, &1_u64.to_ne_bytes()).unwrap();
    }

    pub fn put(&self, at: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, at).unwrap();
    }

    /// Says whose turn a slot is.
    pub fn put_state(&self, slot: u64, state: u32) {
        self.put(SLOTS_AT + SLOT_BYTES * slot, &state.to_ne_bytes());
    }

    /// Posts a record in the first slot and waits for the errno that answers it.
    pub fn call(&mut self, record: &[u8; 128]) -> i32 {
        self.calls += 1;
        self.put(SLOTS_AT + REQUEST_AT, record);
        self.put_state(0, self.calls << 2 | 1);
        self.post(1);
        let start = Instant::now();
        loop {
            let mut state = [0; 4];
            self.memory.read_exact_at(&mut state, SLOTS_AT).unwrap();
            match u32::from_ne_bytes(state) {
                state if state == self.calls << 2 => break,
                state => assert_ne!(state & 3, 2, "the channel is closed"),
            }
            assert!(start.elapsed() < SOON, "no reply");
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut errno = [0; 4];
        let at = SLOTS_AT + REPLY_AT;
        self.memory.read_exact_at(&mut errno, at).unwrap();
        i32::from_ne_bytes(errno)
    }

    /// Waits until the server has hung up.
    pub fn assert_cut_off(&self) {
        let limit = Timespec::try_from(SOON).unwrap();
        let mut fds = [PollFd::new(&self.stream, PollFlags::RDHUP)];
        assert_eq!(poll(&mut fds, Some(&limit)).unwrap(), 1, "it is served on");
    }
}

/// A request's record: operation, access, flags, descriptor and foreign endpoint.
pub fn record(
    operation: u32,
    access: u32,
    flags: u32,
    fd: i32,
    foreign: Option<&str>,
) -> [u8; 128] {
    let mut record = [0; 128];
    record[..4].copy_from_slice(&operation.to_ne_bytes());
    record[4..8].copy_from_slice(&access.to_ne_bytes());
    record[8..12].copy_from_slice(&flags.to_ne_bytes());
    record[16..20].copy_from_slice(&fd.to_ne_bytes());
    if let Some(foreign) = foreign {
        let foreign: std::net::SocketAddrV4 = foreign.parse().unwrap();
        record[64..66].copy_from_slice(&2_u16.to_ne_bytes());
        record[66..68].copy_from_slice(&foreign.port().to_ne_bytes());
        record[72..76].copy_from_slice(&foreign.ip().octets());
    }
    record
}
