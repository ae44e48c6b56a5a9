//! What is refused, how it is called, and that it changes nothing.

use std::os::fd::AsFd;

use libbpf_rs::{TC_EGRESS, Xdp, XdpFlags};
use xdp_prog::{Error, HostConfig, HostProgram, Mode, detach_stale, stale};

use crate::netns::{Stranger, ifindex, isolated, run};
use crate::{GENERIC, attach, hook, names, qdiscs, veth};

#[test]
fn our_place_taken_at_tc_is_refused() {
    isolated(|| {
        let nic = veth();
        let stranger = Stranger::load("tc");
        hook(&stranger, nic, TC_EGRESS, 1, 0x78_7470)
            .attach()
            .unwrap();
        let error = attach(nic, Mode::Native).unwrap_err();
        assert!(matches!(error, Error::Foreign { .. }), "{error}");
        assert!(stale(nic).unwrap().is_empty());
        run("tc qdisc del dev nic clsact");

        run("tc qdisc add dev nic clsact");
        run("tc filter add dev nic egress prio 1 protocol all u32 match u32 0 0 flowid 1:1");
        let error = attach(nic, Mode::Native).unwrap_err();
        assert!(
            matches!(error, Error::Occupied { .. }) && error.to_string().contains("u32"),
            "{error}"
        );
        assert!(stale(nic).unwrap().is_empty());
        run("tc qdisc del dev nic clsact");

        run("tc qdisc add dev nic ingress");
        let error = attach(nic, Mode::Native).unwrap_err();
        assert!(matches!(error, Error::Occupied { .. }), "{error}");
        assert!(
            error.to_string().contains("tc qdisc del dev nic ingress"),
            "{error}"
        );
        assert!(qdiscs().contains("ingress"));
        assert!(stale(nic).unwrap().is_empty());
    });
}

#[test]
fn a_failure_at_the_last_step_undoes_the_others() {
    isolated(|| {
        // A bridge has no native XDP.
        run("ip link add nic type bridge");
        let nic = ifindex("nic");
        let error = attach(nic, Mode::Native).unwrap_err();
        assert!(matches!(error, Error::ModeRefused { .. }), "{error:?}");
        assert!(error.to_string().contains("generic"), "{error}");
        assert!(stale(nic).unwrap().is_empty());
        assert!(!qdiscs().contains("clsact"));

        attach(nic, Mode::Generic).unwrap();
        let before = stale(nic).unwrap();
        attach(nic, Mode::Native).unwrap_err();
        assert_eq!(stale(nic).unwrap(), before, "what was there came back");
    });
}

#[test]
fn the_kernel_says_why_it_refuses() {
    isolated(|| {
        let nic = veth();
        run("ip link set far mtu 9000");
        let error = attach(nic, Mode::Native).unwrap_err().to_string();
        assert!(
            error.contains("nic") && error.to_lowercase().contains("mtu"),
            "{error}"
        );
        assert!(stale(nic).unwrap().is_empty());
    });
}

/// Real drivers refuse by EINVAL, ENOMEM, ERANGE and what not; a veth can do it by ENOSPC.
#[test]
fn whatever_a_driver_says_it_is_the_mode_that_is_refused() {
    isolated(|| {
        run("ip link add nic numrxqueues 1 type veth peer name far numtxqueues 2");
        run("ethtool -L far tx 2");
        run("ip link set nic up");
        run("ip link set far up");
        let nic = ifindex("nic");
        let error = attach(nic, Mode::Native).unwrap_err();
        assert!(
            matches!(&error, Error::ModeRefused { interface, mode: Mode::Native, .. } if interface == "nic"),
            "{error:?}"
        );
        let text = error.to_string();
        assert!(
            text.contains("queues") && text.contains("mode = \"generic\""),
            "{text}"
        );
        attach(nic, Mode::Generic).unwrap();
        assert_eq!(names(&stale(nic).unwrap()), GENERIC);
    });
}

#[test]
fn an_interface_that_does_not_exist_is_an_error() {
    isolated(|| {
        let error = attach(9999, Mode::Native).unwrap_err().to_string();
        assert!(error.contains("No such device"), "{error}");
        stale(9999).unwrap_err();
        detach_stale(9999).unwrap_err();
    });
}

#[test]
fn the_host_port_is_called_by_its_name() {
    isolated(|| {
        run("ip link add tp7 type veth peer name tp7-w");
        let (kernel_side, worker_side) = (ifindex("tp7"), ifindex("tp7-w"));
        let stranger = Stranger::load("xdp");
        let program = stranger.program();
        Xdp::new(program.as_fd())
            .attach(worker_side as i32, XdpFlags::DRV_MODE)
            .unwrap();
        let host = HostProgram::load(&HostConfig {
            queues: 1,
            to_stack: [2, 3, 4, 5, 6],
        })
        .unwrap();
        let error = host.attach(kernel_side, worker_side).unwrap_err();
        assert!(error.to_string().starts_with("tp7-w: "), "{error}");
        run("tc qdisc add dev tp7 ingress");
        let error = host.attach(kernel_side, worker_side).unwrap_err();
        assert!(error.to_string().starts_with("tp7: "), "{error}");
    });
}
