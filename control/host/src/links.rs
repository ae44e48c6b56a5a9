//! The box's network interfaces.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use futures::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};

use crate::ethtool::Channels;
use crate::{Error, Netlink, nearest};

/// A network interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// The kernel's index of it.
    pub ifindex: u32,
    /// Its MAC address, if it has one of Ethernet's length.
    pub mac: Option<[u8; 6]>,
    /// Its MTU.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether the other end is there.
    pub carrier: bool,
    /// What it is, for virtual ones: `veth`, `bridge`, `vlan`, ...
    pub kind: Option<String>,
    /// The driver behind it: of the device, or the kind for virtual ones.
    pub driver: Option<String>,
    /// The receive queues in use.
    pub rx_queues: u32,
    /// The transmit queues in use.
    pub tx_queues: u32,
    /// The free text that somebody gave it.
    pub alias: Option<String>,
}

impl Netlink {
    /// All interfaces of this network namespace, in the kernel's order.
    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        let messages: Vec<LinkMessage> = self
            .route
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| Error::route("list the interfaces", error))?;
        let channels = self.channels().await?;
        Ok(messages
            .into_iter()
            .filter_map(|message| link_of(message, &channels))
            .collect())
    }

    /// The interface of this name.
    pub async fn link(&self, name: &str) -> Result<Link, Error> {
        let mut links = self.links().await?;
        match links.iter().position(|link| link.name == name) {
            Some(at) => Ok(links.swap_remove(at)),
            None => Err(Error::UnknownInterface {
                name: name.to_owned(),
                nearest: nearest(name, links.iter().map(|link| link.name.as_str()))
                    .map(str::to_owned),
            }),
        }
    }

    async fn channels(&self) -> Result<BTreeMap<u32, Channels>, Error> {
        self.ethtool
            .channels()
            .await
            .map_err(|error| Error::netlink("read the interfaces' channels", error))
    }

    pub(crate) async fn delete_link(&self, link: &Link) -> Result<(), Error> {
        self.route
            .link()
            .del(link.ifindex)
            .execute()
            .await
            .map_err(|error| Error::route(format!("delete {}", link.name), error))
    }
}

fn link_of(message: LinkMessage, channels: &BTreeMap<u32, Channels>) -> Option<Link> {
    let flags = message.header.flags;
    let mut link = Link {
        name: String::new(),
        ifindex: message.header.index,
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        kind: None,
        driver: None,
        rx_queues: 1,
        tx_queues: 1,
        alias: None,
    };
    let (mut bus, mut device) = (None, None);
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::NumRxQueues(queues) => link.rx_queues = queues,
            LinkAttribute::NumTxQueues(queues) => link.tx_queues = queues,
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::ParentDevBusName(name) => bus = Some(name),
            LinkAttribute::ParentDevName(name) => device = Some(name),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    // Drivers allocate more queues than they run; channels are the running ones.
    if let Some(running) = channels.get(&link.ifindex) {
        link.rx_queues = running.rx.max(1);
        link.tx_queues = running.tx.max(1);
    }
    link.driver = match (bus, device) {
        (Some(bus), Some(device)) => driver_of(&bus, &device).ok().flatten(),
        _ => link.kind.clone(),
    };
    (!link.name.is_empty()).then_some(link)
}

/// By the bus, not by /sys/class/net: that one shows the namespace which mounted it.
fn driver_of(bus: &str, device: &str) -> io::Result<Option<String>> {
    let link = Path::new("/sys/bus")
        .join(bus)
        .join("devices")
        .join(device)
        .join("driver");
    let target = std::fs::read_link(link)?;
    Ok(target
        .file_name()
        .map(|name| name.to_string_lossy().into_owned()))
}
