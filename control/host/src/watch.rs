//! Tells when links or addresses have changed.

use std::io;
use std::time::Duration;

use futures::StreamExt;
use futures::channel::mpsc::UnboundedReceiver;
use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup};
use tokio::time::{Instant, timeout_at};

use crate::{Addresses, Error, Link, Netlink};

/// A burst of changes is read once it has been quiet for this long ...
const QUIET: Duration = Duration::from_millis(10);
/// ... or has gone on for this long.
const LIMIT: Duration = Duration::from_millis(100);

/// Links and addresses as they were read together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// All interfaces.
    pub links: Vec<Link>,
    /// All their addresses.
    pub addresses: Addresses,
}

impl Snapshot {
    /// The interface of this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }
}

/// A subscription to changes of links and addresses.
///
/// A notification says only that something moved; everything is then read anew. So a lost one
/// (the kernel reports that with ENOBUFS) costs nothing.
#[derive(Debug)]
pub struct Watch {
    netlink: Netlink,
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// Keeps the connection alive.
    _subscription: Handle,
    current: Snapshot,
    moved: bool,
}

impl Watch {
    /// Subscribes, then reads for the first time: nothing falls in between.
    pub async fn open(netlink: &Netlink) -> Result<Self, Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
        ];
        let (connection, subscription, messages) = rtnetlink::new_multicast_connection(&groups)
            .map_err(|error| Error::netlink("subscribe to changes of interfaces", error))?;
        tokio::spawn(connection);
        Ok(Self {
            current: netlink.snapshot().await?,
            netlink: netlink.clone(),
            messages,
            _subscription: subscription,
            moved: false,
        })
    }

    /// What was read last.
    pub fn current(&self) -> &Snapshot {
        &self.current
    }

    /// Waits until something has changed, and returns how it is now. May be dropped at any await
    /// without losing a change, so it fits into `select!`.
    pub async fn changed(&mut self) -> Result<&Snapshot, Error> {
        loop {
            if !self.moved {
                self.message(None).await?;
                self.moved = true;
            }
            let end = Instant::now() + LIMIT;
            while self.message(Some(end.min(Instant::now() + QUIET))).await? {
                if Instant::now() >= end {
                    break;
                }
            }
            let snapshot = self.netlink.snapshot().await?;
            self.moved = false;
            if snapshot != self.current {
                self.current = snapshot;
                return Ok(&self.current);
            }
        }
    }

    /// Waits for one notification; false when the time is up.
    async fn message(&mut self, until: Option<Instant>) -> Result<bool, Error> {
        let message = match until {
            None => self.messages.next().await,
            Some(until) => match timeout_at(until, self.messages.next()).await {
                Ok(message) => message,
                Err(_) => return Ok(false),
            },
        };
        message.map(|_| true).ok_or_else(|| {
            Error::netlink(
                "follow changes of interfaces",
                io::Error::other("the netlink socket was closed"),
            )
        })
    }
}

impl Netlink {
    /// Reads links and addresses.
    pub async fn snapshot(&self) -> Result<Snapshot, Error> {
        Ok(Snapshot {
            links: self.links().await?,
            addresses: self.addresses().await?,
        })
    }
}
