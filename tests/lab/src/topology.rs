//! The lab: who stands where, and the wires between.

use std::fs::Permissions;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use tempfile::TempDir;

use crate::command::require;
use crate::namespace::Namespace;
use crate::slots::Slot;

/// The client.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);
/// The client's second address.
pub const CLIENT_TWO: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 11);
/// The firewall as clients see it (eth1, zone intra).
pub const FW_INTRA: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);
/// The firewall as servers see it (eth2, zone inter).
pub const FW_INTER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The firewall as the third zone sees it (eth3, zone dmz).
pub const FW_DMZ: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// The server.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// The server's second address.
pub const SERVER_TWO: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);
/// The host of the third zone.
pub const DMZ: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);

/// What the network cards of the endpoints do for their kernels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Offloads {
    /// Transmit checksums and segmentation; no merging on receive. What a veth is born with.
    Usual,
    /// All of it, and merging on receive.
    All,
    /// Nothing.
    None,
}

/// What to build.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Offloads at the endpoints.
    pub offloads: Offloads,
    /// Queues of each of the firewall's cards.
    pub queues: u32,
    /// Whether there is a third zone.
    pub dmz: bool,
    /// Whether the lab mostly waits, so that it need not count as one that works.
    pub idle: bool,
    /// First part of the namespaces' names; made unique when none is given.
    pub name: Option<String>,
}

impl Default for Plan {
    fn default() -> Self {
        Plan {
            offloads: Offloads::Usual,
            queues: 1,
            dmz: false,
            idle: false,
            name: None,
        }
    }
}

/// A client, a firewall and a server, joined by wires.
#[derive(Debug)]
pub struct Lab {
    /// Where clients are.
    pub client: Namespace,
    /// The firewall's box.
    pub fw: Namespace,
    /// Where servers are.
    pub server: Namespace,
    /// The third zone.
    pub dmz: Option<Namespace>,
    plan: Plan,
    dir: Option<TempDir>,
    path: PathBuf,
    _slot: Option<Slot>,
}

impl Lab {
    /// Builds the lab; what was built is removed again if a part fails.
    pub fn build(plan: &Plan) -> Result<Self> {
        require()?;
        let slot = (!plan.idle).then(Slot::take);
        static LABS: AtomicU32 = AtomicU32::new(0);
        let number = LABS.fetch_add(1, Ordering::Relaxed);
        let name = plan.name.clone();
        let name = name.unwrap_or_else(|| format!("xt{}-{number}", std::process::id()));
        let dir = tempfile::Builder::new()
            .prefix("xtproxy-lab-")
            .permissions(Permissions::from_mode(0o755))
            .tempdir()
            .context("cannot make the lab's folder")?;
        let create = |role: &str| Namespace::create(&format!("{name}-{role}"));
        let lab = Lab {
            client: create("client")?,
            fw: create("fw")?,
            server: create("server")?,
            dmz: plan.dmz.then(|| create("dmz")).transpose()?,
            plan: plan.clone(),
            path: dir.path().to_owned(),
            dir: Some(dir),
            _slot: slot,
        };
        lab.wire().context("cannot wire the lab")?;
        Ok(lab)
    }

    /// The lab's folder for files.
    pub fn dir(&self) -> &Path {
        &self.path
    }

    /// How it was built.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Leaves namespaces and folder standing; the caller takes them over.
    pub fn keep(&mut self) {
        for namespace in [&mut self.client, &mut self.fw, &mut self.server] {
            namespace.keep();
        }
        if let Some(dmz) = &mut self.dmz {
            dmz.keep();
        }
        if let Some(dir) = self.dir.take() {
            let _ = dir.keep();
        }
    }

    /// The lab's namespaces.
    pub fn namespaces(&self) -> Vec<&Namespace> {
        let three = [&self.client, &self.fw, &self.server];
        three.into_iter().chain(self.dmz.as_ref()).collect()
    }

    fn wire(&self) -> Result<()> {
        for namespace in self.namespaces() {
            // Inherited from the machine otherwise, and pacing would hide a slow dataplane.
            // A machine may keep cubic from other namespaces; reno is always there.
            let control = "net.ipv4.tcp_congestion_control";
            let cubic = namespace.sysctl(control, "cubic");
            cubic.or_else(|_| namespace.sysctl(control, "reno"))?;
        }
        // A dead dataplane must not measure as the kernel's forwarding.
        self.fw.sysctl("net.ipv4.ip_forward", "0")?;
        self.cable(&self.client, "eth1", CLIENT, FW_INTRA)?;
        self.cable(&self.server, "eth2", SERVER, FW_INTER)?;
        self.client
            .ip(&format!("addr add {CLIENT_TWO}/24 dev eth0"))?;
        self.server
            .ip(&format!("addr add {SERVER_TWO}/24 dev eth0"))?;
        if let Some(dmz) = &self.dmz {
            self.cable(dmz, "eth3", DMZ, FW_DMZ)?;
        }
        Ok(())
    }

    /// Joins `end`'s eth0 and the firewall's `port`, with the firewall as the way out.
    fn cable(&self, end: &Namespace, port: &str, here: Ipv4Addr, fw: Ipv4Addr) -> Result<()> {
        let queues = self.plan.queues;
        self.fw.ip(&format!(
            "link add {port} numtxqueues {queues} numrxqueues {queues} type veth peer name eth0 \
             numtxqueues {queues} numrxqueues {queues} netns {}",
            end.name()
        ))?;
        self.fw.ip(&format!("addr add {fw}/24 dev {port}"))?;
        self.fw.ip(&format!("link set {port} up"))?;
        end.ip(&format!("addr add {here}/24 dev eth0"))?;
        end.ip("link set eth0 up")?;
        end.ip(&format!("route add default via {fw}"))?;
        let words = match self.plan.offloads {
            Offloads::Usual => "tx on tso on gso on gro off",
            Offloads::All => "tx on tso on gso on gro on",
            Offloads::None => "tx off tso off gso off gro off",
        };
        end.run(&format!("ethtool -K eth0 {words}")).map(drop)
    }
}
