//! What a daemon may change on a box, in text, to compare before and after.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::namespace::Namespace;

/// The settings of a namespace, by the command or file that shows them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BoxState(BTreeMap<String, String>);

impl BoxState {
    /// Reads links, addresses, routes, rules, traffic control, offloads, channels, sysctls
    /// and firewall tables.
    pub fn read(namespace: &Namespace) -> Result<Self> {
        settle(namespace)?;
        let mut state = BTreeMap::new();
        let mut show = |line: String| -> Result<()> {
            let text = namespace.run(&line)?;
            state.insert(line, text);
            Ok(())
        };
        for line in [
            "ip -d link show",
            "ip addr show",
            "ip route show table all",
            "ip rule show",
            "tc qdisc show",
            "nft list ruleset",
        ] {
            show(line.to_owned())?;
        }
        for interface in interfaces(namespace)? {
            show(format!("tc filter show dev {interface} ingress"))?;
            show(format!("tc filter show dev {interface} egress"))?;
            show(format!("ethtool -k {interface}"))?;
        }
        state.extend(namespace.enter(sysctls)?);
        Ok(BoxState(state))
    }

    /// Fails with the lines that differ from `self` in `after`.
    pub fn check_same(&self, after: &BoxState) -> Result<()> {
        let mut differences = String::new();
        let keys = self.0.keys().chain(after.0.keys());
        let keys: std::collections::BTreeSet<_> = keys.collect();
        for key in keys {
            let before = self.0.get(key).map_or("", String::as_str);
            let after = after.0.get(key).map_or("", String::as_str);
            let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
            let (before, after) = (lines(before), lines(after));
            for line in before.iter().filter(|line| !after.contains(line)) {
                differences += &format!("\n  {key}: - {}", line.trim());
            }
            for line in after.iter().filter(|line| !before.contains(line)) {
                differences += &format!("\n  {key}: + {}", line.trim());
            }
        }
        ensure!(
            differences.is_empty(),
            "the box is not as it was:{differences}"
        );
        Ok(())
    }

    /// Fails unless something differs in `after`.
    pub fn check_changed(&self, after: &BoxState) -> Result<()> {
        ensure!(self != after, "nothing changed on the box");
        Ok(())
    }
}

/// Waits until IPv6 has found its addresses free: they change by themselves before.
fn settle(namespace: &Namespace) -> Result<()> {
    let until = Instant::now() + Duration::from_secs(10);
    while namespace.ip("-6 addr show tentative")?.contains("inet6") {
        ensure!(Instant::now() < until, "IPv6 addresses stay tentative");
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The names of all interfaces.
fn interfaces(namespace: &Namespace) -> Result<Vec<String>> {
    let text = namespace.ip("-j link show")?;
    let links: Vec<serde_json::Value> = serde_json::from_str(&text)?;
    let name = |link: &serde_json::Value| link["ifname"].as_str().map(str::to_owned);
    links
        .iter()
        .map(|link| name(link).context("a link without a name"))
        .collect()
}

/// The network sysctls that a daemon could be tempted to set.
fn sysctls() -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for folder in ["ipv4/conf", "ipv6/conf", "core"] {
        walk(&Path::new("/proc/sys/net").join(folder), &mut found)?;
    }
    for file in ["ipv4/ip_forward", "ipv4/ip_local_port_range"] {
        let path = Path::new("/proc/sys/net").join(file);
        found.insert(path.display().to_string(), fs::read_to_string(path)?);
    }
    Ok(found)
}

fn walk(folder: &Path, found: &mut BTreeMap<String, String>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, found)?;
        } else if let Ok(text) = fs::read_to_string(&path) {
            // Some cannot be read, stable_secret for one.
            found.insert(path.display().to_string(), text);
        }
    }
    Ok(())
}
