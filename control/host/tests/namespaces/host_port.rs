use host::{Changes, HostPort};

use crate::namespace::{run, with_netlink};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn the_pair_is_quiet_and_like_a_wire() {
    let dir = folder();
    with_netlink(async |netlink| {
        let mut changes = Changes::open(dir.path()).expect("opened");
        let port = HostPort::create(&netlink, &mut changes, "xtp0", 3, 1400)
            .await
            .expect("created");
        for (link, name) in [(&port.kernel, "xtp0"), (&port.dataplane, "xtp0-dp")] {
            assert_eq!(link.name, name);
            assert!(link.up && link.carrier, "{link:?}");
            assert_eq!((link.rx_queues, link.tx_queues, link.mtu), (3, 3, 1400));
            let alias = format!("xtproxy {}", dir.path().display());
            assert_eq!(link.alias, Some(alias));
            let shown = run(&format!("ip -d link show {name}"));
            assert!(shown.contains("NOARP"), "{shown}");
            assert!(!shown.contains("MULTICAST"), "{shown}");
            assert!(shown.contains("qlen 10000"), "{shown}");
            assert_eq!(run(&format!("ip -o address show {name}")), "");

            let offloads = netlink.offloads(link).await.expect("offloads");
            for feature in [
                "tx-checksum-ip-generic",
                "tx-tcp-segmentation",
                "tx-tcp6-segmentation",
                "tx-udp-segmentation",
                "tx-scatter-gather",
                "tx-vlan-hw-insert",
                "rx-gro",
            ] {
                let offload = offloads.get(feature).expect(feature);
                assert!(!offload.active, "{name} {feature}");
            }
        }
        let queues = run("tc qdisc show dev xtp0");
        assert_eq!(queues.matches("pfifo ").count(), 3, "{queues}");
        assert_eq!(queues.matches("limit 10000p").count(), 3, "{queues}");
    });
}

#[test]
fn one_queue_is_enough() {
    let dir = folder();
    with_netlink(async |netlink| {
        let mut changes = Changes::open(dir.path()).expect("opened");
        HostPort::create(&netlink, &mut changes, "xtp0", 1, 1500)
            .await
            .expect("created");
        let queues = run("tc qdisc show dev xtp0");
        assert!(
            queues.contains("pfifo") && queues.contains("limit 10000p"),
            "{queues}"
        );
    });
}

#[test]
fn a_stale_pair_is_replaced_and_a_foreign_one_is_not() {
    let (dir, other) = (folder(), folder());
    with_netlink(async |netlink| {
        let mut changes = Changes::open(dir.path()).expect("opened");
        let first = HostPort::create(&netlink, &mut changes, "xtp0", 1, 1500)
            .await
            .expect("created");
        let second = HostPort::create(&netlink, &mut changes, "xtp0", 1, 1500)
            .await
            .expect("replaced");
        assert_ne!(first.kernel.ifindex, second.kernel.ifindex);

        let mut others = Changes::open(other.path()).expect("opened");
        let refused = HostPort::create(&netlink, &mut others, "xtp0", 1, 1500)
            .await
            .expect_err("refused");
        assert_eq!(
            refused.to_string(),
            format!(
                "interface xtp0 exists and belongs to the xtproxyd with runtime_dir {}; set \
                 host_port to another name, or remove it with `ip link delete xtp0`",
                dir.path().display()
            )
        );
        assert_eq!(others.list(), [], "nothing was changed");
        let still = netlink.link("xtp0").await.expect("still there");
        assert_eq!(still.ifindex, second.kernel.ifindex);

        run("ip link add xtp1-dp type bridge");
        let refused = HostPort::create(&netlink, &mut changes, "xtp1", 1, 1500)
            .await
            .expect_err("refused");
        assert_eq!(
            refused.to_string(),
            "interface xtp1-dp exists and is not xtproxy's; set host_port to another name, or \
             remove it with `ip link delete xtp1-dp`"
        );
    });
}

#[test]
fn a_pair_that_a_killed_daemon_could_not_name_is_replaced() {
    let dir = folder();
    with_netlink(async |netlink| {
        let mut changes = Changes::open(dir.path()).expect("opened");
        HostPort::create(&netlink, &mut changes, "xtp0", 1, 1500)
            .await
            .expect("created");
        // As it stands between the two requests: recorded and created, without an alias.
        run("ip link delete xtp0");
        run("ip link add xtp0 type veth peer name xtp0-dp");
        HostPort::create(&netlink, &mut changes, "xtp0", 1, 1500)
            .await
            .expect("replaced");
    });
}

#[test]
fn a_refusal_leaves_nothing() {
    let dir = folder();
    with_netlink(async |netlink| {
        let mut changes = Changes::open(dir.path()).expect("opened");
        for (name, mtu) in [("xtp0", 10), ("xtp0", 10_000_000)] {
            let refused = HostPort::create(&netlink, &mut changes, name, 1, mtu).await;
            let error = refused.expect_err("no such MTU").to_string();
            assert!(
                error.starts_with("cannot create the host port xtp0: "),
                "{error}"
            );
        }
        for name in ["", "a/b", "thirteen-long", "xt p", "..", "\u{e4}"] {
            let refused = HostPort::create(&netlink, &mut changes, name, 1, 1500).await;
            let error = refused.expect_err("no such name").to_string();
            assert!(error.starts_with("host port name "), "{error}");
        }
        assert_eq!(changes.list(), []);
        assert_eq!(netlink.links().await.expect("links").len(), 1, "lo alone");
    });
}
