use std::net::Ipv4Addr;
use std::time::Duration;

use host::{Own4, Watch};
use tokio::time::timeout;

use crate::namespace::{run, with_netlink};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn addresses_are_read_in_the_kernels_order() {
    with_netlink(async |netlink| {
        run("ip link add d0 type bridge");
        run("ip link add d1 type bridge");
        run("ip address add 10.1.0.9/24 broadcast 10.1.0.200 dev d0");
        run("ip address add 10.1.0.1/24 dev d0");
        run("ip address add 10.2.0.1 peer 10.2.0.2/32 dev d1");
        run("ip address add 2001:db8::1/64 dev d1 nodad");
        run("ip link set d0 up");
        let d0 = netlink.link("d0").await.expect("d0").ifindex;
        let d1 = netlink.link("d1").await.expect("d1").ifindex;

        let addresses = netlink.addresses().await.expect("addresses");
        let v4: Vec<_> = addresses.v4[&d0]
            .iter()
            .map(|address| (address.addr.to_string(), address.secondary))
            .collect();
        assert_eq!(
            v4,
            [
                ("10.1.0.9".to_owned(), false),
                ("10.1.0.1".to_owned(), true)
            ]
        );
        assert_eq!(addresses.primary4(d0), Some(Ipv4Addr::new(10, 1, 0, 9)));
        // The far end of a point-to-point link is not ours.
        assert_eq!(addresses.primary4(d1), Some(Ipv4Addr::new(10, 2, 0, 1)));
        assert_eq!(addresses.primary4(9999), None);

        let own: Vec<_> = addresses
            .own_v4()
            .into_iter()
            .map(|(addr, own)| (addr.to_string(), own))
            .collect();
        let expected = [
            ("10.1.0.1", Own4::Unicast),
            ("10.1.0.9", Own4::Unicast),
            ("10.1.0.200", Own4::Broadcast),
            ("10.1.0.255", Own4::Broadcast),
            ("10.2.0.1", Own4::Unicast),
        ];
        assert_eq!(own, expected.map(|(addr, own)| (addr.to_owned(), own)));
        // What the kernel itself takes as its own, once the links are up, is the same.
        run("ip link set d1 up");
        let kernel = run("ip -4 route show table local");
        for (addr, own) in expected {
            let kind = match own {
                Own4::Unicast => "local",
                Own4::Broadcast => "broadcast",
            };
            assert!(
                kernel.contains(&format!("{kind} {addr} ")),
                "{addr}: {kernel}"
            );
        }
        let own6 = addresses.own_v6();
        assert!(own6.contains(&"2001:db8::1".parse().expect("an address")));
        assert!(!own6.contains(&"::1".parse().expect("an address")));
    });
}

#[test]
fn changes_are_told_once_per_burst_and_none_is_lost() {
    with_netlink(async |netlink| {
        run("ip link add d0 type bridge");
        run("ip link set d0 up");
        let mut watch = Watch::open(&netlink).await.expect("watch");
        let d0 = watch.current().link("d0").expect("d0").ifindex;
        assert_eq!(watch.current().addresses.primary4(d0), None);

        for last in 1..=9 {
            run(&format!("ip address add 10.0.0.{last}/24 dev d0"));
        }
        let mut told = 0;
        loop {
            let now = timeout(SOON, watch.changed())
                .await
                .expect("soon")
                .expect("told");
            told += 1;
            if now.addresses.v4.get(&d0).is_some_and(|v4| v4.len() == 9) {
                break;
            }
        }
        assert!(told < 9, "told {told} times");
        assert_eq!(
            timeout(Duration::from_millis(300), watch.changed())
                .await
                .map(|_| ())
                .ok(),
            None,
            "nothing moved"
        );

        // A wait that was given up, as in a select, loses nothing.
        run("ip address delete 10.0.0.1/24 dev d0");
        let cut = timeout(Duration::from_millis(1), watch.changed()).await;
        assert!(cut.is_err(), "the burst is not over in a millisecond");
        let now = timeout(SOON, watch.changed())
            .await
            .expect("soon")
            .expect("told");
        assert_ne!(now.addresses.primary4(d0), Some(Ipv4Addr::new(10, 0, 0, 1)));

        run("ip link set d0 mtu 1300");
        let now = timeout(SOON, watch.changed())
            .await
            .expect("soon")
            .expect("told");
        assert_eq!(now.link("d0").expect("d0").mtu, 1300);
        run("ip link delete d0");
        let now = timeout(SOON, watch.changed())
            .await
            .expect("soon")
            .expect("told");
        assert_eq!(now.link("d0"), None);
    });
}

/// More notifications than a netlink socket holds, with nobody reading meanwhile.
#[test]
fn an_overrun_of_notifications_is_made_good() {
    with_netlink(async |netlink| {
        run("ip link add d0 type bridge");
        let mut watch = Watch::open(&netlink).await.expect("watch");
        let d0 = watch.current().link("d0").expect("d0").ifindex;
        let batch: String = (0..60)
            .flat_map(|net| (1..=100).map(move |last| (net, last)))
            .map(|(net, last)| format!("address add 10.0.{net}.{last}/24 dev d0\n"))
            .collect();
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), batch).expect("written");
        // The runtime's only thread waits here: the socket is not read.
        run(&format!("ip -batch {}", file.path().display()));
        loop {
            let now = timeout(SOON, watch.changed())
                .await
                .expect("soon")
                .expect("told");
            if now.addresses.v4.get(&d0).is_some_and(|v4| v4.len() == 6000) {
                break;
            }
        }
    });
}
