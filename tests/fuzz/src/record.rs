//! A record of the file of registrations, read by the numbers of its description and not by the
//! code that reads it.

use std::net::{Ipv4Addr, SocketAddrV4};

use registry::{AliveSocket, Row, flags};
use wire::Protocol;

/// Length of a record, and of the file's header.
pub(crate) const RECORD_BYTES: usize = 256;
const MAGIC: [u8; 8] = *b"xtp-entr";
const VERSION: u32 = 1;
const DIVERTED_LOCAL: u8 = 4;
const DIVERTED_FOREIGN: u8 = 8;
const CHECKSUM_AT: usize = 16;
const NAME_AT: usize = 80;
const NAME_BYTES: usize = 32;
const GROUPS_AT: usize = 112;
const GROUPS_MOST: u8 = 24;
const KNOWN_FLAGS: u32 =
    flags::CONNECT | flags::LISTEN | flags::ESTABLISHED | flags::ONCE | flags::UNIDIR;

/// The bytes of one.
pub(crate) struct Record(pub(crate) [u8; RECORD_BYTES]);

impl Record {
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|n| self.0[at + n])
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.get(at))
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn address(&self, at: usize) -> SocketAddrV4 {
        let octets: [u8; 4] = self.get(at);
        let port = u16::from_le_bytes(self.get(at + 4));
        SocketAddrV4::new(Ipv4Addr::from(octets), port)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0 == [0; RECORD_BYTES]
    }

    /// FNV-1a of all but its own place.
    fn checksum(&self) -> u64 {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for (at, byte) in self.0.iter().enumerate() {
            if !(CHECKSUM_AT..CHECKSUM_AT + 8).contains(&at) {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
            }
        }
        hash
    }

    /// Puts what is at the front right, for this owner's place.
    pub(crate) fn place(&mut self, owner: u32) {
        self.put(0, &MAGIC);
        self.put(8, &VERSION.to_le_bytes());
        self.put(12, &owner.to_le_bytes());
    }

    /// Puts the checksum right.
    pub(crate) fn seal(&mut self) {
        let checksum = self.checksum();
        self.put(CHECKSUM_AT, &checksum.to_le_bytes());
    }

    /// Whether a daemon can have written it at this owner's place.
    pub(crate) fn is_good(&self, owner: u32) -> bool {
        let [proto, has_peer, standing, groups] = self.get(40);
        self.get(0) == MAGIC
            && self.u32(8) == VERSION
            && self.u32(12) == owner
            && u64::from_le_bytes(self.get(CHECKSUM_AT)) == self.checksum()
            && [6, 17].contains(&proto)
            && has_peer <= 1
            && standing <= 15
            && (standing & DIVERTED_LOCAL == 0 || !self.address(54).ip().is_unspecified())
            && (standing & DIVERTED_FOREIGN == 0
                || !self.address(54).ip().is_unspecified() && self.address(54).port() != 0)
            && groups <= GROUPS_MOST
            && self.flags() & !KNOWN_FLAGS == 0
    }

    pub(crate) fn cookie(&self) -> u64 {
        u64::from_le_bytes(self.get(24))
    }

    pub(crate) fn is_orphan(&self) -> bool {
        self.0[42] & 2 != 0
    }

    /// Whether local and foreign endpoint were diverted, whatever the flags say now.
    pub(crate) fn was_diverted(&self) -> [bool; 2] {
        [DIVERTED_LOCAL, DIVERTED_FOREIGN].map(|bit| self.0[42] & bit != 0)
    }

    fn flags(&self) -> u32 {
        self.u32(44)
    }

    pub(crate) fn groups(&self) -> Vec<u32> {
        let count = usize::from(self.0[43]);
        (0..count).map(|n| self.u32(GROUPS_AT + 4 * n)).collect()
    }

    /// The socket as the record has it.
    pub(crate) fn socket(&self) -> AliveSocket {
        AliveSocket {
            proto: self.0[40],
            uid: self.u32(76),
            local: self.address(48),
        }
    }

    /// How people are to see it; the owner and the age are left out.
    pub(crate) fn row(&self) -> Row {
        let foreign = self.address(54);
        let mark = if foreign.ip().is_unspecified() {
            flags::MARK
        } else {
            0
        };
        Row {
            owner: 0,
            proto: Protocol(self.0[40]),
            local: self.address(48),
            foreign,
            peer: (self.0[41] == 1).then(|| self.address(60)),
            flags: self.flags() | mark,
            is_orphan: self.is_orphan(),
            flows: 0,
            pid: self.u32(68),
            uid: self.u32(72),
            command: Self::kept_name(&self.0[NAME_AT..NAME_AT + NAME_BYTES]),
            age_ns: 0,
        }
    }

    /// Whether this is how people see it, be its socket open or not.
    pub(crate) fn is_shown_as(&self, row: &Row) -> bool {
        let shown = Row {
            owner: row.owner,
            is_orphan: row.is_orphan,
            ..self.row()
        };
        shown == *row
    }

    /// A program's name as a record keeps it.
    pub(crate) fn kept_name(name: &[u8]) -> String {
        let name = &name[..name.len().min(NAME_BYTES)];
        let name = String::from_utf8_lossy(name);
        name.trim_end_matches('\0').to_owned()
    }
}
