//! A registration as it stands in the file: 256 bytes, little-endian.
//!
//! | at | what | | at | what |
//! |---|---|---|---|---|
//! | 0 | `xtp-entr` | | 60 | peer: address, port |
//! | 8 | version | | 68 | pid |
//! | 12 | owner id | | 72 | user |
//! | 16 | checksum of all the rest | | 76 | the socket's user |
//! | 24 | cookie | | 80 | name of the program, 32 bytes |
//! | 32 | time made | | 112 | 24 groups |
//! | 40 | protocol, has a peer, how it stands, number of groups | | | |
//! | 44 | flags | | | |
//! | 48 | local: address, port | | | |
//! | 54 | foreign: address, port | | | |

use std::sync::Arc;

use tables::OwnerId;
use wire::{Endpoint, Protocol};

use crate::client::{Client, Grant};
use crate::entry::{Diverted, Entry};
use crate::terms::{Terms, flags};

/// Length of a record, and of the file's header.
pub(crate) const RECORD_BYTES: usize = 256;
pub(crate) const VERSION: u32 = 1;

const MAGIC: [u8; 8] = *b"xtp-entr";
const MAGIC_AT: usize = 0;
const VERSION_AT: usize = 8;
const OWNER_AT: usize = 12;
const CHECKSUM_AT: usize = 16;
const COOKIE_AT: usize = 24;
const CREATED_AT: usize = 32;
const PROTO_AT: usize = 40;
const HAS_PEER_AT: usize = 41;
const STANDING_AT: usize = 42;
const GIDS_AT: usize = 43;
const FLAGS_AT: usize = 44;
const LOCAL_AT: usize = 48;
const FOREIGN_AT: usize = 54;
const PEER_AT: usize = 60;
const PID_AT: usize = 68;
const UID_AT: usize = 72;
const SOCKET_UID_AT: usize = 76;
const COMMAND_AT: usize = 80;
const COMMAND_BYTES: usize = 32;
const GROUPS_AT: usize = 112;
const GROUPS_MOST: usize = 24;
const CONNECT_ONLY: u8 = 1;
const ORPHAN: u8 = 2;
const DIVERTED_LOCAL: u8 = 4;
const DIVERTED_FOREIGN: u8 = 8;
const STANDINGS: u8 = CONNECT_ONLY | ORPHAN | DIVERTED_LOCAL | DIVERTED_FOREIGN;

/// The bytes of a record or of the header.
#[derive(Clone, Copy)]
pub(crate) struct Bytes(pub(crate) [u8; RECORD_BYTES]);

impl Bytes {
    pub(crate) const EMPTY: Self = Self([0; RECORD_BYTES]);

    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0[at + i])
    }

    fn u32_at(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.get(at))
    }

    fn u64_at(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.get(at))
    }

    fn put_endpoint(&mut self, at: usize, endpoint: Endpoint) {
        self.put(at, &endpoint.addr.octets());
        self.put(at + 4, &endpoint.port.to_le_bytes());
    }

    fn endpoint_at(&self, at: usize) -> Endpoint {
        let addr: [u8; 4] = self.get(at);
        Endpoint::new(addr.into(), u16::from_le_bytes(self.get(at + 4)))
    }

    /// Marks the bytes as whole.
    pub(crate) fn seal(&mut self, magic: [u8; 8]) {
        self.put(MAGIC_AT, &magic);
        self.put(VERSION_AT, &VERSION.to_le_bytes());
        self.put(CHECKSUM_AT, &self.checksum().to_le_bytes());
    }

    /// Whether the bytes are whole, of this sort and of this version.
    pub(crate) fn is_sealed(&self, magic: [u8; 8]) -> bool {
        self.get(MAGIC_AT) == magic
            && self.u32_at(VERSION_AT) == VERSION
            && self.u64_at(CHECKSUM_AT) == self.checksum()
    }

    /// FNV-1a over all but the checksum's own place: for torn writes, not for forgers; the file
    /// is the daemon's own.
    fn checksum(&self) -> u64 {
        let rest = self.0[..CHECKSUM_AT]
            .iter()
            .chain(&self.0[CHECKSUM_AT + 8..]);
        rest.fold(0xcbf2_9ce4_8422_2325, |hash: u64, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

/// The record of an entry.
pub(crate) fn encode(owner: OwnerId, entry: &Entry, grants: &[Grant]) -> Bytes {
    let Entry { terms, client, .. } = entry;
    let groups = groups(client, grants);
    let mut bytes = Bytes::EMPTY;
    bytes.put(OWNER_AT, &owner.0.to_le_bytes());
    bytes.put(COOKIE_AT, &entry.cookie.to_le_bytes());
    bytes.put(CREATED_AT, &entry.created_ns.to_le_bytes());
    bytes.put(PROTO_AT, &[entry.proto.0]);
    bytes.put(HAS_PEER_AT, &[u8::from(terms.peer.is_some())]);
    let bit = |is_so: bool, bit: u8| if is_so { bit } else { 0 };
    let standing = bit(terms.is_connect_only, CONNECT_ONLY)
        | bit(entry.is_orphan, ORPHAN)
        | bit(entry.diverted.local, DIVERTED_LOCAL)
        | bit(entry.diverted.foreign, DIVERTED_FOREIGN);
    bytes.put(STANDING_AT, &[standing]);
    bytes.put(GIDS_AT, &[groups.len() as u8]);
    bytes.put(FLAGS_AT, &terms.flags.to_le_bytes());
    bytes.put_endpoint(LOCAL_AT, entry.local);
    bytes.put_endpoint(FOREIGN_AT, terms.foreign);
    if let Some(peer) = terms.peer {
        bytes.put_endpoint(PEER_AT, peer);
    }
    bytes.put(PID_AT, &client.pid.to_le_bytes());
    bytes.put(UID_AT, &client.uid.to_le_bytes());
    bytes.put(SOCKET_UID_AT, &entry.socket_uid.to_le_bytes());
    let command = client.command.as_bytes();
    bytes.put(COMMAND_AT, &command[..command.len().min(COMMAND_BYTES)]);
    for (n, gid) in groups.iter().enumerate() {
        bytes.put(GROUPS_AT + 4 * n, &gid.to_le_bytes());
    }
    bytes.seal(MAGIC);
    bytes
}

/// As many of the groups as fit, those first that a grant names.
fn groups(client: &Client, grants: &[Grant]) -> Vec<u32> {
    let mut groups = client.gids.clone();
    if groups.len() > GROUPS_MOST {
        groups.sort_by_key(|gid| !grants.iter().any(|grant| grant.gid == Some(*gid)));
        groups.truncate(GROUPS_MOST);
    }
    groups
}

/// The entry of a record that stands at this owner's place. Nothing if none was written so.
pub(crate) fn decode(owner: OwnerId, bytes: &Bytes) -> Option<Entry> {
    let [proto, has_peer, standing, groups] = bytes.get(PROTO_AT);
    let terms = Terms {
        foreign: bytes.endpoint_at(FOREIGN_AT),
        peer: (has_peer == 1).then(|| bytes.endpoint_at(PEER_AT)),
        flags: bytes.u32_at(FLAGS_AT),
        is_connect_only: standing & CONNECT_ONLY != 0,
    };
    let is_whole = bytes.is_sealed(MAGIC)
        && bytes.u32_at(OWNER_AT) == owner.0
        && has_peer <= 1
        && standing & !STANDINGS == 0
        && (standing & DIVERTED_LOCAL == 0 || !terms.is_mark())
        && (standing & DIVERTED_FOREIGN == 0 || terms.is_fixed())
        && usize::from(groups) <= GROUPS_MOST
        && terms.flags & !flags::STORED == 0
        && [Protocol::TCP, Protocol::UDP].contains(&Protocol(proto));
    if !is_whole {
        return None;
    }
    let gids = (0..usize::from(groups)).map(|n| bytes.u32_at(GROUPS_AT + 4 * n));
    let command: [u8; COMMAND_BYTES] = bytes.get(COMMAND_AT);
    let client = Client {
        pid: bytes.u32_at(PID_AT),
        uid: bytes.u32_at(UID_AT),
        gids: gids.collect(),
        command: String::from_utf8_lossy(&command)
            .trim_end_matches('\0')
            .to_owned(),
    };
    Some(Entry {
        cookie: bytes.u64_at(COOKIE_AT),
        proto: Protocol(proto),
        local: bytes.endpoint_at(LOCAL_AT),
        terms,
        socket_uid: bytes.u32_at(SOCKET_UID_AT),
        client: Arc::new(client),
        created_ns: bytes.u64_at(CREATED_AT),
        registration: None,
        is_taken_over: true,
        is_orphan: standing & ORPHAN != 0,
        diverted: Diverted {
            local: standing & DIVERTED_LOCAL != 0,
            foreign: standing & DIVERTED_FOREIGN != 0,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> Entry {
        Entry {
            cookie: 0x1122_3344_5566_7788,
            proto: Protocol::UDP,
            local: Endpoint::new([10, 0, 0, 1].into(), 50_021),
            terms: Terms {
                foreign: Endpoint::new([203, 0, 113, 5].into(), 2121),
                peer: Some(Endpoint::new([198, 51, 100, 7].into(), 53)),
                flags: flags::ESTABLISHED | flags::ONCE,
                is_connect_only: true,
            },
            socket_uid: 13,
            client: Arc::new(Client {
                pid: 77,
                uid: 14,
                gids: (1..=30).collect(),
                command: "a name of more than thirty-two bytes".to_owned(),
            }),
            created_ns: 5_000_000_000,
            registration: None,
            is_taken_over: true,
            is_orphan: true,
            diverted: Diverted {
                local: true,
                foreign: false,
            },
        }
    }

    #[test]
    fn a_record_gives_back_its_entry() {
        let grant = Grant {
            uid: None,
            gid: Some(30),
            foreign: Vec::new(),
        };
        let wanted = entry();
        let read = decode(OwnerId(9), &encode(OwnerId(9), &wanted, &[grant])).unwrap();
        let names = |e: &Entry| {
            (
                e.cookie,
                e.proto,
                e.local,
                e.terms,
                e.socket_uid,
                e.created_ns,
                (e.is_orphan, e.diverted),
            )
        };
        assert_eq!(names(&read), names(&wanted));
        assert_eq!((read.client.pid, read.client.uid), (77, 14));
        assert_eq!(read.client.command, "a name of more than thirty-two b");
        let kept: Vec<u32> = std::iter::once(30).chain(1..=23).collect();
        assert_eq!(
            read.client.gids, kept,
            "the granted group is among those kept"
        );
    }

    #[test]
    fn a_record_at_another_place_is_none() {
        let bytes = encode(OwnerId(9), &entry(), &[]);
        assert!(decode(OwnerId(8), &bytes).is_none());
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_seen(at in 0..RECORD_BYTES, change in 1_u8..) {
            let mut bytes = encode(OwnerId(9), &entry(), &[]);
            bytes.0[at] ^= change;
            prop_assert!(decode(OwnerId(9), &bytes).is_none());
        }

        #[test]
        fn whatever_is_sealed_decodes_or_does_not(random in proptest::collection::vec(any::<u8>(), RECORD_BYTES)) {
            let mut bytes = Bytes::EMPTY;
            bytes.put(0, &random);
            bytes.put(OWNER_AT, &9_u32.to_le_bytes());
            bytes.0[PROTO_AT] = 6;
            bytes.seal(MAGIC);
            let _ = decode(OwnerId(9), &bytes);
        }
    }
}
