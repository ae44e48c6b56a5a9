//! Traffic control by rtnetlink, as far as libbpf does not go: which qdisc an
//! interface has for clsact's place, which filters hang on it, and making and
//! removing clsact.
//!
//! Invariant: what a reply means is never guessed; a record too short for its
//! kind is an error.

use std::io;

use rustix::fd::OwnedFd;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

use crate::Error;

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_GETTFILTER: u16 = 46;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CREATE_EXCL: u16 = 0x600;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_INGRESS_BLOCK: u16 = 13;
const TCA_EGRESS_BLOCK: u16 = 14;
const TCA_BPF_ID: u16 = 11;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// The parent of clsact and of the older ingress qdisc.
const CLSACT_PARENT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
const HEADER_BYTES: usize = 16;
const TC_BYTES: usize = 20;

/// What stands where clsact would.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Qdisc {
    pub(crate) kind: String,
    /// Its filters belong to a block that other interfaces may share.
    pub(crate) shared: bool,
}

/// One filter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Filter {
    pub(crate) priority: u32,
    pub(crate) handle: u32,
    pub(crate) kind: String,
    /// The program, if it is a BPF filter.
    pub(crate) program: Option<u32>,
}

/// The qdisc in clsact's place, if any.
pub(crate) fn attached(interface: &str, ifindex: u32) -> Result<Option<Qdisc>, Error> {
    let request = request(RTM_GETQDISC, NLM_F_DUMP, ifindex, 0, 0, &[]);
    let records =
        ask(&request).map_err(|e| Error::from_io(format!("{interface}: listing qdiscs"), e))?;
    for record in &records {
        let (tc, attributes) =
            split(record).map_err(|e| Error::from_io(format!("{interface}: listing qdiscs"), e))?;
        if tc.ifindex == ifindex && tc.parent == CLSACT_PARENT {
            let shared = find(attributes, TCA_INGRESS_BLOCK)
                .or(find(attributes, TCA_EGRESS_BLOCK))
                .is_some();
            return Ok(Some(Qdisc {
                kind: kind(attributes),
                shared,
            }));
        }
    }
    Ok(None)
}

/// The filters of one direction; `parent` is the direction's.
pub(crate) fn filters(interface: &str, ifindex: u32, parent: u32) -> Result<Vec<Filter>, Error> {
    let what = || format!("{interface}: listing tc filters");
    let request = request(RTM_GETTFILTER, NLM_F_DUMP, ifindex, 0, parent, &[]);
    let mut filters = Vec::new();
    for record in ask(&request).map_err(|e| Error::from_io(what(), e))? {
        let (tc, attributes) = split(&record).map_err(|e| Error::from_io(what(), e))?;
        let kind = kind(attributes);
        let options = (kind == "bpf")
            .then(|| find(attributes, TCA_OPTIONS))
            .flatten()
            .unwrap_or_default();
        filters.push(Filter {
            priority: tc.info >> 16,
            handle: tc.handle,
            program: find(options, TCA_BPF_ID)
                .and_then(|id| id.first_chunk().copied())
                .map(u32::from_ne_bytes),
            kind,
        });
    }
    Ok(filters)
}

/// Makes clsact.
pub(crate) fn create(interface: &str, ifindex: u32) -> Result<(), Error> {
    let kind = attribute(TCA_KIND, b"clsact\0");
    let request = request(
        RTM_NEWQDISC,
        NLM_F_ACK | NLM_F_CREATE_EXCL,
        ifindex,
        CLSACT_HANDLE,
        CLSACT_PARENT,
        &kind,
    );
    ask(&request).map_err(|error| {
        let what = format!("{interface}: creating the clsact qdisc");
        // The kernel looks for a module "sch_clsact" and finds none.
        if error.kind() == io::ErrorKind::NotFound {
            let cure = "use a kernel with CONFIG_NET_SCH_INGRESS".into();
            return Error::Unsupported { what, cure };
        }
        Error::from_io(what, error)
    })?;
    Ok(())
}

/// Removes clsact with all that hangs on it.
pub(crate) fn remove(interface: &str, ifindex: u32) -> Result<(), Error> {
    let request = request(
        RTM_DELQDISC,
        NLM_F_ACK,
        ifindex,
        CLSACT_HANDLE,
        CLSACT_PARENT,
        &[],
    );
    ask(&request).map_err(|error| {
        Error::from_io(format!("{interface}: removing the clsact qdisc"), error)
    })?;
    Ok(())
}

struct TcHeader {
    ifindex: u32,
    handle: u32,
    parent: u32,
    info: u32,
}

fn request(
    kind: u16,
    flags: u16,
    ifindex: u32,
    handle: u32,
    parent: u32,
    attributes: &[u8],
) -> Vec<u8> {
    let len = HEADER_BYTES + TC_BYTES + attributes.len();
    let mut bytes = Vec::with_capacity(len);
    bytes.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
    // Sequence and sender: one question per socket needs neither. Then the family.
    for word in [0, 0, 0, ifindex, handle, parent, 0] {
        bytes.extend_from_slice(&word.to_ne_bytes());
    }
    bytes.extend_from_slice(attributes);
    bytes
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [len.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend_from_slice(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Sends a request and gathers the bodies of the records that answer it.
fn ask(request: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let socket: OwnedFd = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None, // protocol 0: NETLINK_ROUTE
    )?;
    send(&socket, request, SendFlags::empty())?;
    let mut records = Vec::new();
    let mut buffer = vec![0u8; 1 << 16];
    loop {
        let (_, received) = recv(&socket, buffer.as_mut_slice(), RecvFlags::empty())?;
        let Some(mut datagram) = buffer.get(..received) else {
            return Err(garbled("an answer longer than its buffer"));
        };
        while !datagram.is_empty() {
            let (kind, body, rest) =
                next_message(datagram).ok_or_else(|| garbled("a cut message"))?;
            match kind {
                NLMSG_DONE => return Ok(records),
                NLMSG_ERROR => return acknowledged(body).map(|()| records),
                _ => records.push(body.to_vec()),
            }
            datagram = rest;
        }
    }
}

fn next_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER_BYTES..len)?;
    let rest = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, body, rest))
}

fn acknowledged(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(garbled("a cut acknowledgement")),
    }
}

fn split(record: &[u8]) -> io::Result<(TcHeader, &[u8])> {
    let (header, attributes) = record
        .split_first_chunk::<TC_BYTES>()
        .ok_or_else(|| garbled("a cut tc record"))?;
    let word = |at: usize| {
        header
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .map_or(0, |word| u32::from_ne_bytes(*word))
    };
    Ok((
        TcHeader {
            ifindex: word(4),
            handle: word(8),
            parent: word(12),
            info: word(16),
        },
        attributes,
    ))
}

fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let len = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let kind = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?) & NLA_TYPE_MASK;
        let value = attributes.get(4..len)?;
        if kind == wanted {
            return Some(value);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn kind(attributes: &[u8]) -> String {
    let bytes = find(attributes, TCA_KIND).unwrap_or_default();
    String::from_utf8_lossy(bytes.strip_suffix(&[0]).unwrap_or(bytes)).into_owned()
}

fn garbled(what: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the kernel's traffic control sent {what}"),
    )
}
