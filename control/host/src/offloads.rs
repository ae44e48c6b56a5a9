//! What a NIC does in the packet's stead, by the kernel's own names (`ethtool -k`, where the
//! summary lines have other names).

use std::collections::BTreeMap;

use crate::{Error, Link, Netlink, nearest};

/// Taking the VLAN tag out of a received frame. While it is on, XDP does not see the tag.
pub const RX_VLAN: &str = "rx-vlan-hw-parse";

/// One offload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offload {
    /// Whether it works now.
    pub active: bool,
    /// Whether the driver lets it be changed.
    pub changeable: bool,
}

/// All offloads of one interface, by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offloads(BTreeMap<String, Offload>);

impl Offloads {
    /// The offload of this name.
    pub fn get(&self, feature: &str) -> Option<Offload> {
        self.0.get(feature).copied()
    }

    /// All of them, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Offload)> {
        self.0
            .iter()
            .map(|(name, offload)| (name.as_str(), *offload))
    }

    /// The offload of this name, or the error that says which name is near.
    pub(crate) fn require(&self, interface: &str, feature: &str) -> Result<Offload, Error> {
        self.get(feature).ok_or_else(|| Error::UnknownOffload {
            interface: interface.to_owned(),
            feature: feature.to_owned(),
            nearest: nearest(feature, self.0.keys().map(String::as_str)).map(str::to_owned),
        })
    }
}

impl Netlink {
    /// The offloads of an interface.
    pub async fn offloads(&self, link: &Link) -> Result<Offloads, Error> {
        let features = self.ethtool.features(link.ifindex).await.map_err(|error| {
            Error::netlink(format!("read the offloads of {}", link.name), error)
        })?;
        Ok(Offloads(
            features
                .into_iter()
                .map(|(name, bits)| {
                    let offload = Offload {
                        active: bits.active,
                        changeable: bits.changeable,
                    };
                    (name, offload)
                })
                .collect(),
        ))
    }

    /// Switches offloads and looks whether they really changed. What is as wanted already is left
    /// alone. This does not go into the journal: see [`crate::Changes::set_offload`].
    pub async fn set_offloads(&self, link: &Link, wanted: &[(&str, bool)]) -> Result<(), Error> {
        let before = self.offloads(link).await?;
        let mut changes = Vec::new();
        for (feature, on) in wanted {
            let offload = before.require(&link.name, feature)?;
            if offload.active == *on {
                continue;
            }
            if !offload.changeable {
                return Err(Error::FixedOffload {
                    interface: link.name.clone(),
                    feature: (*feature).to_owned(),
                    active: offload.active,
                });
            }
            changes.push((*feature, *on));
        }
        if changes.is_empty() {
            return Ok(());
        }
        self.ethtool
            .set_features(link.ifindex, &changes)
            .await
            .map_err(|error| Error::netlink(format!("set offloads of {}", link.name), error))?;
        let after = self.offloads(link).await?;
        for (feature, on) in changes {
            let offload = after.require(&link.name, feature)?;
            if offload.active != on {
                return Err(Error::StubbornOffload {
                    interface: link.name.clone(),
                    feature: feature.to_owned(),
                    active: offload.active,
                });
            }
        }
        Ok(())
    }
}
