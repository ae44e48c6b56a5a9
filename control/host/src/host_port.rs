//! The host port: the veth pair between the kernel's stack and the dataplane.
//!
//! Invariant: what leaves the kernel's end is what a wire would carry: whole checksums, segments
//! of at most the MTU, VLAN tags in the frame. Neither end has addresses or speaks by itself.

use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::LinkUnspec;

use crate::{Change, Changes, Error, Link, Netlink, Sysctl};

/// The dataplane's end has the kernel's name and this.
const SUFFIX: &str = "-dp";
/// A name with its final zero fills at most 16 bytes.
const NAME_MAX: usize = 15;
/// Packets that wait per queue of the kernel's end. A veth has a ring of 256 packets and drops
/// what does not fit; with a queue in front the kernel (6.16 and later) holds the packets back
/// instead. A super-packet counts as one.
const QUEUE_PACKETS: u32 = 10_000;

/// The pair, ready and up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPort {
    /// The kernel's end.
    pub kernel: Link,
    /// The dataplane's end.
    pub dataplane: Link,
}

impl HostPort {
    /// The name of the dataplane's end for a name of the kernel's end.
    pub fn dataplane_name(name: &str) -> String {
        format!("{name}{SUFFIX}")
    }

    /// Creates the pair with `queues` queues in both directions on both ends. A pair that an
    /// earlier daemon of the same runtime folder left is replaced. On an error nothing is left.
    pub async fn create(
        netlink: &Netlink,
        changes: &mut Changes,
        name: &str,
        queues: u32,
        mtu: u32,
    ) -> Result<Self, Error> {
        check_name(name)?;
        let alias = changes.alias();
        clear(netlink, changes, name, &alias).await?;
        let change = Change::Link {
            interface: name.to_owned(),
            alias: alias.clone(),
        };
        changes.record(change.clone())?;
        let created = Self::build(netlink, name, queues, mtu, &alias).await;
        if created.is_err() {
            if let Ok(link) = netlink.link(name).await {
                netlink.delete_link(&link).await?;
            }
            changes.forget(&change)?;
        }
        created
    }

    async fn build(
        netlink: &Netlink,
        name: &str,
        queues: u32,
        mtu: u32,
        alias: &str,
    ) -> Result<Self, Error> {
        netlink
            .route
            .link()
            .add(pair(name, queues, mtu))
            .execute()
            .await
            .map_err(|error| Error::route(format!("create the host port {name}"), error))?;
        let kernel = netlink.link(name).await?;
        let dataplane = netlink.link(&Self::dataplane_name(name)).await?;
        for link in [&kernel, &dataplane] {
            set(netlink, link, |message| {
                message
                    .attributes
                    .push(LinkAttribute::IfAlias(alias.to_owned()));
            })
            .await?;
            let ipv6 = Sysctl::of(&["net/ipv6/conf", &link.name, "disable_ipv6"]);
            if ipv6.exists() {
                ipv6.write("1")?;
            }
            like_a_wire(netlink, link).await?;
        }
        netlink.queue_packets(&kernel, QUEUE_PACKETS).await?;
        for link in [&kernel, &dataplane] {
            set(netlink, link, |message| {
                message.header.flags |= LinkFlags::Up;
                message.header.change_mask |= LinkFlags::Up;
            })
            .await?;
        }
        Ok(Self {
            kernel: netlink.link(name).await?,
            dataplane: netlink.link(&dataplane.name).await?,
        })
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    let max = NAME_MAX - SUFFIX.len();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > max || !name.chars().all(plain) || name.starts_with('.') {
        return Err(Error::HostPortName {
            name: name.to_owned(),
            max,
        });
    }
    Ok(())
}

/// Removes what an earlier daemon of ours left under the two names, and refuses anything else.
async fn clear(netlink: &Netlink, changes: &Changes, name: &str, alias: &str) -> Result<(), Error> {
    // A daemon that was killed between creating the pair and naming its owner has recorded it.
    let recorded = changes
        .list()
        .iter()
        .any(|change| matches!(change, Change::Link { interface, .. } if interface == name));
    let ends = [name.to_owned(), HostPort::dataplane_name(name)];
    let links = netlink.links().await?;
    let found = || {
        ends.iter()
            .filter_map(|end| links.iter().find(|link| link.name == *end))
    };
    for link in found() {
        let owner = match link.alias.as_deref() {
            Some(other) if other == alias => continue,
            None if recorded && link.kind.as_deref() == Some("veth") => continue,
            Some(other) => match other.strip_prefix("xtproxy ") {
                Some(dir) => format!("belongs to the xtproxyd with runtime_dir {dir}"),
                None => format!("is not xtproxy's (its alias is {other:?})"),
            },
            None => "is not xtproxy's".to_owned(),
        };
        return Err(Error::ForeignLink {
            name: link.name.clone(),
            owner,
        });
    }
    for link in found() {
        match netlink.delete_link(link).await {
            // The second end goes with the first.
            Err(error) if !error.is_gone() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn pair(name: &str, queues: u32, mtu: u32) -> LinkMessage {
    let mut peer = end(&HostPort::dataplane_name(name), queues, mtu);
    peer.header.index = 0;
    let mut message = end(name, queues, mtu);
    message.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
    ]));
    message
}

fn end(name: &str, queues: u32, mtu: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.flags = LinkFlags::Noarp;
    message.header.change_mask = LinkFlags::Noarp | LinkFlags::Multicast;
    message.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::TxQueueLen(QUEUE_PACKETS),
        LinkAttribute::NumTxQueues(queues),
        LinkAttribute::NumRxQueues(queues),
    ];
    message
}

async fn set(
    netlink: &Netlink,
    link: &Link,
    fill: impl FnOnce(&mut LinkMessage),
) -> Result<(), Error> {
    let mut message = LinkUnspec::new_with_index(link.ifindex).build();
    fill(&mut message);
    netlink
        .route
        .link()
        .set(message)
        .execute()
        .await
        .map_err(|error| Error::route(format!("set up {}", link.name), error))
}

/// Switches off all that a veth would leave undone on transmit, since the far end is no stack that
/// knows of it, and the merging of what it receives.
async fn like_a_wire(netlink: &Netlink, link: &Link) -> Result<(), Error> {
    let offloads = netlink.offloads(link).await?;
    let off: Vec<(&str, bool)> = offloads
        .iter()
        .filter(|(name, offload)| {
            offload.changeable && offload.active && (name.starts_with("tx-") || *name == "rx-gro")
        })
        .map(|(name, _)| (name, false))
        .collect();
    netlink.set_offloads(link, &off).await
}
