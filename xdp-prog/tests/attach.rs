//! Attaching to real links and getting off them again.

mod fixture;
mod netns;
#[path = "attach/privilege.rs"]
mod privilege;
#[path = "attach/refusal.rs"]
mod refusal;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use libbpf_rs::{TC_EGRESS, TC_INGRESS, TcAttachPoint, TcHook, TcHookBuilder, Xdp, XdpFlags};
use netns::{Stranger, ifindex, isolated, run};
use xdp_prog::{
    Error, HostConfig, HostProgram, Mode, PortConfig, PortProgram, Stale, detach_stale, stale,
};

fn veth() -> u32 {
    run("ip link add nic type veth peer name far");
    run("ip link set nic up");
    run("ip link set far up");
    ifindex("nic")
}

fn config(ifindex: u32, mode: Mode) -> PortConfig {
    PortConfig {
        interface: "nic".into(),
        ifindex,
        mode,
        host_ifindex: ifindex,
        ..fixture::config()
    }
}

fn attach(ifindex: u32, mode: Mode) -> Result<(), Error> {
    PortProgram::load(
        &config(ifindex, mode),
        &fixture::no_endpoints(),
        &fixture::no_sockets(),
    )
    .unwrap()
    .attach()
}

fn qdiscs() -> String {
    run("tc qdisc show dev nic")
}

fn names(stale: &Stale) -> [Option<(&str, Option<Mode>)>; 3] {
    [&stale.xdp, &stale.tc_egress, &stale.tc_ingress]
        .map(|p| p.as_ref().map(|p| (p.name.as_str(), p.mode)))
}

const NATIVE: [Option<(&str, Option<Mode>)>; 3] = [
    Some(("xtp_steer", Some(Mode::Native))),
    Some(("xtp_egress", None)),
    None,
];
const GENERIC: [Option<(&str, Option<Mode>)>; 3] = [
    Some(("xtp_steer", Some(Mode::Generic))),
    Some(("xtp_egress", None)),
    Some(("xtp_slow_lane", None)),
];

fn hook(
    stranger: &Stranger,
    ifindex: u32,
    point: TcAttachPoint,
    priority: u32,
    handle: u32,
) -> TcHook {
    let program = stranger.program();
    let mut hook = TcHookBuilder::new(program.as_fd())
        .ifindex(ifindex as i32)
        .priority(priority)
        .handle(handle)
        .hook(point);
    hook.create().unwrap();
    hook
}

#[test]
fn what_is_attached_outlives_its_loader_and_can_be_removed_by_anyone() {
    isolated(|| {
        let nic = veth();
        for (mode, want) in [(Mode::Native, NATIVE), (Mode::Generic, GENERIC)] {
            assert!(stale(nic).unwrap().is_empty());
            attach(nic, mode).unwrap();
            assert_eq!(names(&stale(nic).unwrap()), want);
            assert_eq!(names(&detach_stale(nic).unwrap()), want);
            assert!(stale(nic).unwrap().is_empty());
            assert!(!qdiscs().contains("clsact"), "{}", qdiscs());
        }
        assert!(
            detach_stale(nic).unwrap().is_empty(),
            "nothing to do is no error"
        );
    });
}

#[test]
fn a_loader_detaches_what_it_attached() {
    isolated(|| {
        let nic = veth();
        for mode in [Mode::Native, Mode::Generic] {
            let mut program = PortProgram::load(
                &config(nic, mode),
                &fixture::no_endpoints(),
                &fixture::no_sockets(),
            )
            .unwrap();
            program.attach().unwrap();
            program.detach().unwrap();
            assert!(stale(nic).unwrap().is_empty());
            assert!(!qdiscs().contains("clsact"));
        }
        run("tc qdisc add dev nic clsact");
        let mut program = PortProgram::load(
            &config(nic, Mode::Native),
            &fixture::no_endpoints(),
            &fixture::no_sockets(),
        )
        .unwrap();
        program.attach().unwrap();
        program.detach().unwrap();
        assert!(qdiscs().contains("clsact"), "it was there before");
    });
}

#[test]
fn stale_programs_are_replaced_without_a_gap() {
    isolated(|| {
        let nic = veth();
        for mode in [Mode::Native, Mode::Generic] {
            attach(nic, mode).unwrap();
            let before = stale(nic).unwrap();
            let watch = Watch::start(nic);
            for _ in 0..8 {
                attach(nic, mode).unwrap();
            }
            let (looks, gaps) = watch.stop();
            assert!(looks > 8, "the watch saw {looks} moments only");
            assert_eq!(gaps, 0);
            let after = stale(nic).unwrap();
            assert_eq!(names(&before), names(&after));
            assert_ne!(before.xdp, after.xdp);
            assert_ne!(before.tc_egress, after.tc_egress);
            let filters = run("tc filter show dev nic egress");
            assert_eq!(filters.matches("direct-action").count(), 1, "{filters}");
            detach_stale(nic).unwrap();
        }
    });
}

/// Looks again and again whether the interface has an XDP program.
struct Watch {
    stop: Arc<AtomicBool>,
    counts: Arc<[AtomicU64; 2]>,
    thread: thread::JoinHandle<()>,
}

impl Watch {
    fn start(nic: u32) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let counts = Arc::new([AtomicU64::new(0), AtomicU64::new(0)]);
        let (stopped, counted) = (stop.clone(), counts.clone());
        // A thread starts in the namespace of the one that spawns it.
        let thread = thread::spawn(move || {
            let any = std::fs::File::open("/dev/null").unwrap();
            let xdp = Xdp::new(any.as_fd());
            while !stopped.load(Ordering::Relaxed) {
                let gap = xdp.query_id(nic as i32, XdpFlags::NONE).unwrap() == 0;
                counted[0].fetch_add(1, Ordering::Relaxed);
                counted[1].fetch_add(gap.into(), Ordering::Relaxed);
            }
        });
        Self {
            stop,
            counts,
            thread,
        }
    }

    fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
        let [looks, gaps] = &*self.counts;
        (looks.load(Ordering::Relaxed), gaps.load(Ordering::Relaxed))
    }
}

#[test]
fn a_change_of_mode_leaves_only_the_new_mode() {
    isolated(|| {
        let nic = veth();
        attach(nic, Mode::Native).unwrap();
        attach(nic, Mode::Generic).unwrap();
        assert_eq!(names(&stale(nic).unwrap()), GENERIC);
        attach(nic, Mode::Native).unwrap();
        assert_eq!(names(&stale(nic).unwrap()), NATIVE);
        detach_stale(nic).unwrap();
        assert!(!qdiscs().contains("clsact"));
    });
}

#[test]
fn a_foreign_xdp_program_is_refused_by_name_and_left_alone() {
    isolated(|| {
        let nic = veth();
        let stranger = Stranger::load("xdp");
        for bits in [XdpFlags::DRV_MODE.bits(), XdpFlags::SKB_MODE.bits()] {
            let flag = || XdpFlags::from_bits_retain(bits);
            let program = stranger.program();
            let xdp = Xdp::new(program.as_fd());
            xdp.attach(nic as i32, flag()).unwrap();
            let id = xdp.query_id(nic as i32, flag()).unwrap();
            for mode in [Mode::Native, Mode::Generic] {
                let error = attach(nic, mode).unwrap_err();
                assert!(
                    matches!(&error, Error::Foreign { id: found, .. } if *found == id),
                    "{error}"
                );
                let text = error.to_string();
                assert!(text.contains("nic") && text.contains("stranger"), "{text}");
            }
            assert!(detach_stale(nic).unwrap().is_empty());
            assert_eq!(xdp.query_id(nic as i32, flag()).unwrap(), id);
            assert!(!qdiscs().contains("clsact"), "a refusal changes nothing");
            xdp.detach(nic as i32, flag()).unwrap();
        }
    });
}

#[test]
fn a_foreign_filter_and_its_clsact_stay() {
    isolated(|| {
        let nic = veth();
        let stranger = Stranger::load("tc");
        for point in [TC_EGRESS, TC_INGRESS] {
            hook(&stranger, nic, point, 50, 1).attach().unwrap();
            attach(nic, Mode::Generic).unwrap();
            assert_eq!(names(&stale(nic).unwrap()), GENERIC);
            assert_eq!(names(&detach_stale(nic).unwrap()), GENERIC);
            assert!(stale(nic).unwrap().is_empty());
            hook(&stranger, nic, point, 50, 1)
                .query()
                .expect("the stranger's filter is there");
            run("tc qdisc del dev nic clsact");
        }
    });
}

#[test]
fn a_foreign_filter_beside_ours_at_one_priority_stays() {
    isolated(|| {
        let nic = veth();
        let stranger = Stranger::load("tc");
        hook(&stranger, nic, TC_EGRESS, 1, 1).attach().unwrap();
        attach(nic, Mode::Native).unwrap();
        assert_eq!(names(&stale(nic).unwrap()), NATIVE);
        detach_stale(nic).unwrap();
        assert!(stale(nic).unwrap().is_empty());
        hook(&stranger, nic, TC_EGRESS, 1, 1)
            .query()
            .expect("the stranger's filter is there");
    });
}

#[test]
fn the_host_port_has_its_programs_on_the_right_sides() {
    isolated(|| {
        run("ip link add xtp0 type veth peer name xtp0-dp");
        let (kernel_side, worker_side) = (ifindex("xtp0"), ifindex("xtp0-dp"));
        let load = || {
            HostProgram::load(&HostConfig {
                queues: 1,
                to_stack: [2, 3, 4, 5, 6],
            })
            .unwrap()
        };
        let host = load();
        host.attach(kernel_side, worker_side).unwrap();
        load().attach(kernel_side, worker_side).unwrap();
        assert_eq!(
            names(&stale(kernel_side).unwrap()),
            [None, None, Some(("xtp_deliver", None))]
        );
        assert_eq!(
            names(&stale(worker_side).unwrap()),
            [Some(("xtp_host", Some(Mode::Native))), None, None]
        );
        host.detach(kernel_side, worker_side).unwrap();
        assert!(stale(kernel_side).unwrap().is_empty() && stale(worker_side).unwrap().is_empty());
    });
}
