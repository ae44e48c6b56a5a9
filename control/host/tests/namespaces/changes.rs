use std::fs;

use host::{Change, Changes, Direction, HostPort, RX_VLAN, Sysctl};

use crate::namespace::{run, with_netlink};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn undone(_: &Change) -> Result<(), String> {
    Ok(())
}

#[test]
fn everything_is_taken_back_after_a_kill() {
    let dir = folder();
    with_netlink(async |netlink| {
        run("ip link add v0 type veth peer name v1");
        let link = netlink.link("v0").await.expect("v0");
        let filter = Sysctl::of(&["net/ipv4/conf", "v0", "rp_filter"]);
        filter.write("2").expect("written");

        let mut changes = Changes::open(dir.path()).expect("opened");
        changes
            .set_offload(&netlink, &link, RX_VLAN, false)
            .await
            .expect("set");
        changes.set_sysctl(&filter, "0").expect("set");
        HostPort::create(&netlink, &mut changes, "xtp0", 1, 1500)
            .await
            .expect("created");
        drop(changes);

        // The next daemon changes the same things again, to other values.
        let mut changes = Changes::open(dir.path()).expect("opened");
        assert_eq!(changes.list().len(), 3);
        netlink
            .set_offloads(&link, &[(RX_VLAN, true)])
            .await
            .expect("set");
        changes
            .set_offload(&netlink, &link, RX_VLAN, false)
            .await
            .expect("set");
        changes.set_sysctl(&filter, "1").expect("set");
        HostPort::create(&netlink, &mut changes, "xtp0", 2, 1500)
            .await
            .expect("replaced");
        let told: Vec<String> = changes.list().iter().map(Change::to_string).collect();
        assert_eq!(
            told,
            [
                "v0: offload rx-vlan-hw-parse off, was on",
                "sysctl net/ipv4/conf/v0/rp_filter: 1, was 2",
                "xtp0: created",
            ]
        );

        let left = changes.restore(&netlink, undone).await.expect("restored");
        assert_eq!(left, []);
        assert_eq!(changes.list(), []);
        assert_eq!(filter.read().expect("read"), "2");
        let offloads = netlink.offloads(&link).await.expect("offloads");
        assert!(offloads.get(RX_VLAN).expect("known").active);
        assert!(netlink.link("xtp0").await.is_err());
        assert!(netlink.link("xtp0-dp").await.is_err());
        assert_eq!(fs::read_dir(dir.path()).expect("read").count(), 0);
        // Once more does nothing.
        assert_eq!(changes.restore(&netlink, undone).await.expect("again"), []);
    });
}

#[test]
fn an_entry_is_on_the_disk_before_the_change() {
    let dir = folder();
    with_netlink(async |_| {
        let mut changes = Changes::open(dir.path()).expect("opened");
        let change = Change::Clsact {
            interface: "eth1".to_owned(),
            ifindex: 7,
        };
        changes.record(change.clone()).expect("recorded");
        let other = Changes::open(dir.path()).expect("opened");
        assert_eq!(other.list(), [change]);
        // Where nothing can be written down, nothing may be changed.
        fs::create_dir(dir.path().join("changes.json.new")).expect("in the way");
        let setting = Sysctl::of(&["net/ipv4/ip_forward"]);
        setting.write("0").expect("written");
        let error = changes.set_sysctl(&setting, "1").expect_err("refused");
        assert!(error.to_string().starts_with("cannot write "), "{error}");
        assert_eq!(setting.read().expect("read"), "0");
        assert_eq!(changes.list().len(), 1);
    });
}

#[test]
fn programs_are_taken_off_by_the_caller_in_reverse_order() {
    let dir = folder();
    with_netlink(async |netlink| {
        run("ip link add d0 type bridge");
        let ifindex = netlink.link("d0").await.expect("d0").ifindex;
        let interface = "d0".to_owned();
        let entries = [
            Change::Clsact {
                interface: interface.clone(),
                ifindex,
            },
            Change::TcFilter {
                interface: interface.clone(),
                ifindex,
                direction: Direction::Egress,
            },
            Change::Xdp {
                interface: interface.clone(),
                ifindex,
                mode: "generic".to_owned(),
            },
            // Another interface had the name when this was attached.
            Change::TcFilter {
                interface,
                ifindex: ifindex + 1000,
                direction: Direction::Ingress,
            },
        ];
        let mut changes = Changes::open(dir.path()).expect("opened");
        for entry in &entries {
            changes.record(entry.clone()).expect("recorded");
        }
        let mut seen = Vec::new();
        let left = changes
            .restore(&netlink, |change| {
                seen.push(change.clone());
                match change {
                    Change::TcFilter { .. } => Err("busy".to_owned()),
                    _ => Ok(()),
                }
            })
            .await
            .expect("restored");
        assert_eq!(
            seen,
            [entries[2].clone(), entries[1].clone(), entries[0].clone()]
        );
        assert_eq!(left.len(), 1);
        assert_eq!(
            left[0].to_string(),
            "not restored: d0: tc egress program attached: busy"
        );
        assert_eq!(changes.list(), [entries[1].clone()], "to be tried again");
        assert_eq!(changes.restore(&netlink, undone).await.expect("again"), []);
        assert_eq!(changes.list(), []);
    });
}

#[test]
fn what_is_gone_or_not_ours_any_more_is_left_alone() {
    let dir = folder();
    with_netlink(async |netlink| {
        run("ip link add v0 type veth peer name v1");
        run("ip link add d0 type bridge");
        let v0 = netlink.link("v0").await.expect("v0");
        let gone = Sysctl::of(&["net/ipv4/conf", "d0", "rp_filter"]);
        let kept = Sysctl::of(&["net/ipv4/conf", "lo", "log_martians"]);
        let mut changes = Changes::open(dir.path()).expect("opened");
        changes
            .set_offload(&netlink, &v0, RX_VLAN, false)
            .await
            .expect("set");
        changes.set_sysctl(&gone, "2").expect("set");
        changes.set_sysctl(&kept, "1").expect("set");
        HostPort::create(&netlink, &mut changes, "xtp0", 1, 1500)
            .await
            .expect("created");

        run("ip link delete v0");
        run("ip link add v0 type veth peer name v1");
        run("ethtool -K v0 rxvlan off");
        run("ip link delete d0");
        kept.write("2").expect("the administrator's");
        run("ip link set xtp0 alias mine");

        let left = changes.restore(&netlink, undone).await.expect("restored");
        let told: Vec<String> = left.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                format!(
                    "not restored: xtp0: created: its alias is now \"mine\", not \"xtproxy {}\"",
                    dir.path().display()
                ),
                "not restored: sysctl net/ipv4/conf/lo/log_martians: 1, was 0: somebody else has \
                 set it to 2 since"
                    .to_owned(),
            ]
        );
        assert_eq!(kept.read().expect("read"), "2");
        assert!(netlink.link("xtp0").await.is_ok());
        let v0 = netlink.link("v0").await.expect("v0");
        let offloads = netlink.offloads(&v0).await.expect("offloads");
        assert!(!offloads.get(RX_VLAN).expect("known").active, "another v0");
    });
}

#[test]
fn a_journal_is_of_one_namespace() {
    let dir = folder();
    let change = Change::Clsact {
        interface: "eth1".to_owned(),
        ifindex: 7,
    };
    with_netlink(async |_| {
        let mut changes = Changes::open(dir.path()).expect("opened");
        changes.record(change.clone()).expect("recorded");
        with_netlink(async |_| {
            let mut elsewhere = Changes::open(dir.path()).expect("opened");
            assert_eq!(elsewhere.list(), []);
            let other = Change::Clsact {
                interface: "eth2".to_owned(),
                ifindex: 8,
            };
            elsewhere.record(other).expect("recorded");
        });
        let back = Changes::open(dir.path()).expect("opened");
        assert_eq!(back.list(), [change]);
    });
}

#[test]
fn a_journal_from_before_the_boot_is_void() {
    let dir = folder();
    with_netlink(async |_| {
        let mut changes = Changes::open(dir.path()).expect("opened");
        let change = Change::Clsact {
            interface: "eth1".to_owned(),
            ifindex: 7,
        };
        changes.record(change).expect("recorded");
        let path = dir.path().join("changes.json");
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("read");
        let text = fs::read_to_string(&path).expect("read");
        fs::write(&path, text.replace(boot.trim(), "an-earlier-one")).expect("written");
        assert_eq!(Changes::open(dir.path()).expect("opened").list(), []);
    });
}

#[test]
fn a_spoilt_journal_is_named_with_its_place() {
    let dir = folder();
    with_netlink(async |_| {
        let path = dir.path().join("changes.json");
        fs::write(&path, "{\n  \"version\": 1,\n  oops\n}\n").expect("written");
        let error = Changes::open(dir.path()).expect_err("refused");
        assert_eq!(
            error.to_string(),
            format!(
                "{}:3:3: not a journal of changes (key must be a string); move it away: what it \
                 lists will then not be restored",
                path.display()
            )
        );
    });
}
