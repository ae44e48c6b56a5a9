//! A narrow link behind the client's router: what it says by ICMP reaches the proxy's socket.

use anyhow::{Result, ensure};
use e2e::{Script, Stage, in_both_modes, play};
use lab::topology::{CLIENT, SERVER};
use lab::web::fetch_sha256;
use lab::{Mode, Namespace};

in_both_modes! {
    a_narrow_link_is_discovered,
}

/// The router's address on the narrow link.
const ROUTER: &str = "192.168.2.1";
/// The host behind it.
const BEHIND: &str = "192.168.2.5";
/// What the narrow link carries.
const MTU: u32 = 1300;

fn a_narrow_link_is_discovered(mode: Mode) {
    play(&Script::new(mode), |stage| {
        stage.server_link.hidden.insert(BEHIND.parse()?);
        let behind = behind(stage)?;
        let sum = stage.web.add_random("file", 10_000_000)?;
        let came = fetch_sha256(&behind, SERVER, "file", stage.lab.dir())?;
        assert_eq!(came, sum);
        let told = stage.daemon.counters("icmp_translated")?;
        ensure!(told != [0], "the path was never found too narrow");
        // The proxy's kernel has learned it.
        let route = stage.lab.fw.ip(&format!("route get {BEHIND}"))?;
        ensure!(route.contains(&format!("mtu {MTU}")), "{route}");
        Ok(())
    });
}

/// Makes of the client's box a router with a host behind it. Only the router's end of their link
/// is narrow, so that nothing but ICMP can tell the proxy.
fn behind(stage: &Stage) -> Result<Namespace> {
    let router = &stage.lab.client;
    let behind = Namespace::create(&format!("{}-behind", router.name()))?;
    router.ip(&format!(
        "link add lan0 type veth peer name eth0 netns {}",
        behind.name()
    ))?;
    router.ip(&format!("link set lan0 mtu {MTU} up"))?;
    router.ip(&format!("addr add {ROUTER}/24 dev lan0"))?;
    router.sysctl("net.ipv4.ip_forward", "1")?;
    behind.ip("link set eth0 up")?;
    behind.ip(&format!("addr add {BEHIND}/24 dev eth0"))?;
    behind.ip(&format!("route add default via {ROUTER}"))?;
    let fw = &stage.lab.fw;
    fw.ip(&format!("route add 192.168.2.0/24 via {CLIENT} dev eth1"))?;
    Ok(behind)
}
