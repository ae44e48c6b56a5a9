use std::collections::BTreeMap;

use host::{Error, RX_VLAN};

use crate::namespace::{run, with_netlink};

#[test]
fn a_link_is_read_as_it_is() {
    with_netlink(async |netlink| {
        run("ip link add v0 mtu 1400 address 02:00:00:00:00:01 \
             numtxqueues 4 numrxqueues 3 type veth peer name v1 numtxqueues 3 numrxqueues 4");
        let link = netlink.link("v0").await.expect("v0");
        assert_eq!(link.mac, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!((link.mtu, link.up, link.carrier), (1400, false, false));
        assert_eq!(link.kind.as_deref(), Some("veth"));
        assert_eq!(link.driver.as_deref(), Some("veth"));
        assert_eq!((link.rx_queues, link.tx_queues), (3, 4));
        assert_eq!(link.alias, None);

        run("ip link set v0 up alias two");
        run("ip link set v0 alias words");
        run("ip link set v1 up");
        // What runs counts, not what was allocated.
        run("ethtool -L v0 rx 2 tx 1");
        let link = netlink.link("v0").await.expect("v0");
        assert_eq!((link.up, link.carrier), (true, true));
        assert_eq!((link.rx_queues, link.tx_queues), (2, 1));
        assert_eq!(link.alias.as_deref(), Some("words"));
        assert_eq!(link.ifindex, index("v0"));
        assert_eq!(netlink.links().await.expect("links").len(), 3);
    });
}

#[test]
fn an_unknown_link_gets_the_nearest_name() {
    with_netlink(async |netlink| {
        run("ip link add eth1 type bridge");
        let error = netlink.link("eht1").await.expect_err("no such link");
        assert_eq!(
            error.to_string(),
            "interface eht1 does not exist; did you mean eth1?"
        );
        let error = netlink.link("wan").await.expect_err("no such link");
        assert_eq!(error.to_string(), "interface wan does not exist");
    });
}

#[test]
fn offloads_agree_with_ethtool() {
    with_netlink(async |netlink| {
        run("ip link add v0 type veth peer name v1");
        let link = netlink.link("v0").await.expect("v0");
        let seen = offloads(&netlink, &link).await;
        // Scatter-gather has index 0, which is easily lost.
        assert_eq!(seen["tx-scatter-gather"], (true, true));
        assert_eq!(seen["tx-tcp-segmentation"], (true, true));
        assert_eq!(seen["tx-esp-segmentation"], (false, false), "fixed");

        netlink
            .set_offloads(&link, &[(RX_VLAN, false), ("rx-gro", true)])
            .await
            .expect("set");
        let told = run("ethtool -k v0");
        assert!(told.contains("rx-vlan-offload: off"), "{told}");
        assert!(told.contains("generic-receive-offload: on"), "{told}");
        let seen = offloads(&netlink, &link).await;
        assert_eq!(seen[RX_VLAN], (false, true));
        assert_eq!(seen["rx-gro"], (true, true));
    });
}

#[test]
fn offloads_that_cannot_be_set_say_why() {
    with_netlink(async |netlink| {
        run("ip link add v0 type veth peer name v1");
        let link = netlink.link("v0").await.expect("v0");
        let refused = async |feature: &str, on| {
            netlink
                .set_offloads(&link, &[(feature, on)])
                .await
                .expect_err("refused")
                .to_string()
        };
        assert_eq!(
            refused("rx-vlan-hw-pars", true).await,
            "v0: the kernel knows no offload rx-vlan-hw-pars; did you mean rx-vlan-hw-parse?"
        );
        assert_eq!(
            refused("tx-esp-segmentation", true).await,
            "v0: offload tx-esp-segmentation is fixed off; this driver does not let it be changed"
        );
        // The kernel takes the request, but has no segmentation without scatter-gather.
        run("ethtool -K v0 sg off");
        assert_eq!(
            refused("tx-tcp-segmentation", true).await,
            "v0: offload tx-tcp-segmentation stayed off though the kernel took the request; \
             another setting of the driver holds it (see `ethtool -k v0`)"
        );
        run("ip link delete v0");
        let error = netlink.offloads(&link).await.expect_err("gone");
        assert!(matches!(error, Error::Netlink { .. }), "{error}");
    });
}

async fn offloads(netlink: &host::Netlink, link: &host::Link) -> BTreeMap<String, (bool, bool)> {
    netlink
        .offloads(link)
        .await
        .expect("offloads")
        .iter()
        .map(|(name, offload)| (name.to_owned(), (offload.active, offload.changeable)))
        .collect()
}

fn index(name: &str) -> u32 {
    let line = run(&format!("ip -o link show {name}"));
    let (index, _) = line.split_once(':').expect("an index");
    index.parse().expect("a number")
}
