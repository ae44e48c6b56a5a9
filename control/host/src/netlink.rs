//! The two netlink connections of this room: routing, and ethtool over generic netlink.

use rtnetlink::Handle;

use crate::Error;
use crate::ethtool::Ethtool;

/// Netlink in the network namespace of the thread that opened it.
#[derive(Clone)]
pub struct Netlink {
    pub(crate) route: Handle,
    pub(crate) ethtool: Ethtool,
}

impl Netlink {
    /// Opens the connections and leaves them to the running tokio runtime; they end with the last
    /// clone.
    pub fn open() -> Result<Self, Error> {
        let (connection, route, _) = rtnetlink::new_connection()
            .map_err(|error| Error::netlink("open a netlink socket", error))?;
        tokio::spawn(connection);
        Ok(Self {
            route,
            ethtool: Ethtool::open()?,
        })
    }
}

impl std::fmt::Debug for Netlink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Netlink").finish_non_exhaustive()
    }
}
