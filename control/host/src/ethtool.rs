//! The few ethtool messages that the daemon needs, over generic netlink: features and channels.
//!
//! Written out here because the `ethtool` crate cannot set features, and drops the feature with
//! index 0 (scatter-gather) when it reads them.

use std::collections::BTreeMap;
use std::io;

use futures::StreamExt;
use genetlink::{GenetlinkError, GenetlinkHandle};
use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST,
    NetlinkMessage, NetlinkPayload, NlasIterator, ParseableParametrized, parse_string, parse_u32,
};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};

use crate::Error;

const FEATURES_GET: u8 = 11;
const FEATURES_SET: u8 = 12;
const CHANNELS_GET: u8 = 17;

/// Every request and reply carries its header as attribute 1.
const HEADER: u16 = 1;
const HEADER_DEV_INDEX: u16 = 1;
const HEADER_FLAGS: u16 = 3;
const FLAG_OMIT_REPLY: u32 = 2;

const FEATURES_HW: u16 = 2;
const FEATURES_WANTED: u16 = 3;
const FEATURES_ACTIVE: u16 = 4;
const FEATURES_NOCHANGE: u16 = 5;

const BITSET_BITS: u16 = 3;
const BITSET_BITS_BIT: u16 = 1;
const BIT_NAME: u16 = 2;
const BIT_VALUE: u16 = 3;

const CHANNELS_RX_COUNT: u16 = 6;
const CHANNELS_TX_COUNT: u16 = 7;
const CHANNELS_COMBINED_COUNT: u16 = 9;

/// How many channels a device runs now.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Channels {
    pub(crate) rx: u32,
    pub(crate) tx: u32,
}

/// One feature as the kernel tells it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FeatureBits {
    pub(crate) changeable: bool,
    pub(crate) active: bool,
}

/// A message of the family `ethtool`: its command and its attributes as bytes.
#[derive(Clone, Debug)]
struct Message {
    command: u8,
    attributes: Vec<u8>,
}

impl GenlFamily for Message {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Message {
    fn buffer_len(&self) -> usize {
        self.attributes.len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        buffer[..self.attributes.len()].copy_from_slice(&self.attributes);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Message {
    fn parse_with_param(buffer: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        Ok(Self {
            command: header.cmd,
            attributes: buffer.to_vec(),
        })
    }
}

/// The connection to the family.
#[derive(Clone)]
pub(crate) struct Ethtool {
    handle: GenetlinkHandle,
}

impl Ethtool {
    pub(crate) fn open() -> Result<Self, Error> {
        let (connection, handle, _) = genetlink::new_connection()
            .map_err(|error| Error::netlink("open a generic netlink socket", error))?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// The running channels of every device whose driver tells, by interface index.
    pub(crate) async fn channels(&self) -> io::Result<BTreeMap<u32, Channels>> {
        let attributes = bytes(&[nest(HEADER, &[])]);
        let replies = self.request(CHANNELS_GET, NLM_F_DUMP, attributes).await?;
        replies
            .iter()
            .map(|reply| parse_channels(reply).map_err(undecodable))
            .collect()
    }

    /// All features of an interface, by the kernel's own names.
    pub(crate) async fn features(&self, ifindex: u32) -> io::Result<BTreeMap<String, FeatureBits>> {
        let attributes = bytes(&[nest(HEADER, &[number(HEADER_DEV_INDEX, ifindex)])]);
        let replies = self.request(FEATURES_GET, NLM_F_ACK, attributes).await?;
        let reply = replies
            .first()
            .ok_or_else(|| io::Error::other("the kernel gave no answer"))?;
        parse_features(reply).map_err(undecodable)
    }

    /// Asks for features to be on or off. The kernel may take it and yet do otherwise.
    pub(crate) async fn set_features(
        &self,
        ifindex: u32,
        wanted: &[(&str, bool)],
    ) -> io::Result<()> {
        let bits: Vec<DefaultNla> = wanted
            .iter()
            .map(|(name, on)| {
                let mut bit = vec![text(BIT_NAME, name)];
                if *on {
                    bit.push(DefaultNla::new(BIT_VALUE, Vec::new()));
                }
                nest(BITSET_BITS_BIT, &bit)
            })
            .collect();
        let header = [
            number(HEADER_DEV_INDEX, ifindex),
            number(HEADER_FLAGS, FLAG_OMIT_REPLY),
        ];
        let attributes = bytes(&[
            nest(HEADER, &header),
            nest(FEATURES_WANTED, &[nest(BITSET_BITS, &bits)]),
        ]);
        self.request(FEATURES_SET, NLM_F_ACK, attributes).await?;
        Ok(())
    }

    async fn request(
        &self,
        command: u8,
        flags: u16,
        attributes: Vec<u8>,
    ) -> io::Result<Vec<Vec<u8>>> {
        let mut message = NetlinkMessage::from(GenlMessage::from_payload(Message {
            command,
            attributes,
        }));
        message.header.flags = NLM_F_REQUEST | flags;
        let mut handle = self.handle.clone();
        let mut stream = handle.request(message).await.map_err(|error| match error {
            GenetlinkError::NetlinkError(error) => error,
            other => io::Error::other(other.to_string()),
        })?;
        let mut replies = Vec::new();
        while let Some(reply) = stream.next().await {
            match reply.map_err(undecodable)?.payload {
                NetlinkPayload::InnerMessage(message) => replies.push(message.payload.attributes),
                NetlinkPayload::Error(error) if error.code.is_some() => return Err(error.to_io()),
                _ => {}
            }
        }
        Ok(replies)
    }
}

fn undecodable(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

fn number(kind: u16, value: u32) -> DefaultNla {
    DefaultNla::new(kind, value.to_ne_bytes().to_vec())
}

fn text(kind: u16, value: &str) -> DefaultNla {
    let mut bytes = value.as_bytes().to_vec();
    bytes.push(0);
    DefaultNla::new(kind, bytes)
}

fn nest(kind: u16, inner: &[DefaultNla]) -> DefaultNla {
    DefaultNla::new(kind | NLA_F_NESTED, bytes(inner))
}

fn bytes(attributes: &[DefaultNla]) -> Vec<u8> {
    let mut buffer = vec![0; attributes.buffer_len()];
    attributes.emit(&mut buffer);
    buffer
}

fn parse_channels(reply: &[u8]) -> Result<(u32, Channels), DecodeError> {
    let mut ifindex = 0;
    let mut channels = Channels::default();
    for attribute in NlasIterator::new(reply) {
        let attribute = attribute?;
        match attribute.kind() {
            HEADER => {
                for inner in NlasIterator::new(attribute.value()) {
                    let inner = inner?;
                    if inner.kind() == HEADER_DEV_INDEX {
                        ifindex = parse_u32(inner.value())?;
                    }
                }
            }
            CHANNELS_RX_COUNT => channels.rx += parse_u32(attribute.value())?,
            CHANNELS_TX_COUNT => channels.tx += parse_u32(attribute.value())?,
            CHANNELS_COMBINED_COUNT => {
                let combined = parse_u32(attribute.value())?;
                channels.rx += combined;
                channels.tx += combined;
            }
            _ => {}
        }
    }
    Ok((ifindex, channels))
}

fn parse_features(reply: &[u8]) -> Result<BTreeMap<String, FeatureBits>, DecodeError> {
    let mut features: BTreeMap<String, FeatureBits> = BTreeMap::new();
    for attribute in NlasIterator::new(reply) {
        let attribute = attribute?;
        match attribute.kind() {
            // With a mask: every feature is named, the changeable ones have a value.
            FEATURES_HW => {
                for (name, value) in parse_bitset(attribute.value())? {
                    features.entry(name).or_default().changeable |= value;
                }
            }
            // Without a mask: only those that are meant are named.
            FEATURES_ACTIVE => {
                for (name, _) in parse_bitset(attribute.value())? {
                    features.entry(name).or_default().active = true;
                }
            }
            _ => {}
        }
    }
    for attribute in NlasIterator::new(reply) {
        let attribute = attribute?;
        if attribute.kind() == FEATURES_NOCHANGE {
            for (name, _) in parse_bitset(attribute.value())? {
                features.entry(name).or_default().changeable = false;
            }
        }
    }
    Ok(features)
}

fn parse_bitset(value: &[u8]) -> Result<Vec<(String, bool)>, DecodeError> {
    let mut named = Vec::new();
    for list in NlasIterator::new(value) {
        let list = list?;
        if list.kind() != BITSET_BITS {
            continue;
        }
        for bit in NlasIterator::new(list.value()) {
            let mut name = None;
            let mut on = false;
            for field in NlasIterator::new(bit?.value()) {
                let field = field?;
                match field.kind() {
                    BIT_NAME => name = Some(parse_string(field.value())?),
                    BIT_VALUE => on = true,
                    _ => {}
                }
            }
            named.extend(name.map(|name| (name, on)));
        }
    }
    Ok(named)
}
