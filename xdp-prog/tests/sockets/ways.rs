//! Ways in which the last descriptor goes: with its process, by exec, in a
//! process that has inherited it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use xdp_prog::SocketWatch;

use crate::child::{Process, role};
use crate::netns::run;
use crate::{PATIENCE, assert_silent, cookie, told, udp, watch};

#[test]
fn a_killed_process_closes() {
    let mut watch = watch(16);
    let socket = udp();
    let watched = cookie(&socket);
    watch.add(watched, true).unwrap();
    let mut holder = Process::holding(OwnedFd::from(socket));
    assert_silent(&mut watch);
    holder.kill();
    assert_eq!(told(&mut watch, 1), [watched]);
}

#[test]
fn the_last_process_that_has_it_closes() {
    let mut watch = watch(16);
    let socket = udp();
    let watched = cookie(&socket);
    watch.add(watched, true).unwrap();
    let mut heirs = [(); 2].map(|()| Process::holding(OwnedFd::from(socket.try_clone().unwrap())));
    heirs[0].kill();
    assert_silent(&mut watch);
    drop(socket);
    assert_silent(&mut watch);
    heirs[1].kill();
    assert_eq!(told(&mut watch, 1), [watched]);
}

fn name(process: u32) -> String {
    fs::read_to_string(format!("/proc/{process}/comm")).unwrap_or_default()
}

#[test]
fn exec_closes_what_is_marked_close_on_exec() {
    if let Some(mut parent) = role() {
        let socket = udp();
        let kept = OwnedFd::from(udp());
        let numbers = [cookie(&socket), cookie(&kept)].map(u64::to_ne_bytes);
        parent.write_all(&numbers.concat()).unwrap();
        parent.read_exact(&mut [0]).unwrap();
        // What becomes its standard input stays open; that this returns is an error.
        panic!("{}", Command::new("sleep").arg("600").stdin(kept).exec());
    }
    let mut watch = watch(16);
    let mut child = Process::start("ways::exec_closes_what_is_marked_close_on_exec", &[]);
    let [goes, stays] = [child.number(), child.number()];
    watch.add(goes, true).unwrap();
    watch.add(stays, true).unwrap();
    assert_silent(&mut watch);
    child.go();
    assert_eq!(told(&mut watch, 1), [goes]);
    let end = Instant::now() + PATIENCE;
    while name(child.id()) != "sleep\n" {
        assert!(Instant::now() < end, "{}", name(child.id()));
    }
    child.kill();
    assert_eq!(told(&mut watch, 1), [stays]);
}

/// A named namespace, for `ip netns exec`.
struct Named(String);

impl Named {
    fn add() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("xtp-watch-{}-{count}", std::process::id());
        run(&format!("ip netns add {name}"));
        Self(name)
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        let name = &self.0;
        drop(Command::new("ip").args(["netns", "del", name]).status());
    }
}

/// That has a mount namespace of its own, without the control groups.
#[test]
fn ip_netns_exec_hides_nothing_from_it() {
    if let Some(mut parent) = role() {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        assert!(!mounts.contains("cgroup"), "{mounts}");
        let mut watch = SocketWatch::attach(4).unwrap();
        let (own, other) = (udp_anywhere(), cookie_from(&mut parent));
        let watched = cookie(&own);
        watch.add(watched, true).unwrap();
        watch.add(other, true).unwrap();
        drop(own);
        assert_eq!(told(&mut watch, 1), [watched]);
        parent.write_all(&[0; 8]).unwrap();
        assert_eq!(told(&mut watch, 1), [other]);
        return;
    }
    let namespace = Named::add();
    let prefix = ["ip", "netns", "exec", &namespace.0];
    let mut child = Process::start("ways::ip_netns_exec_hides_nothing_from_it", &prefix);
    let socket = udp();
    child.say(cookie(&socket));
    child.number();
    drop(socket);
    assert!(child.wait().success(), "the child's words are above");
}

/// Its loopback interface is down.
fn udp_anywhere() -> std::net::UdpSocket {
    std::net::UdpSocket::bind("0.0.0.0:0").unwrap()
}

fn cookie_from(parent: &mut impl Read) -> u64 {
    let mut bytes = [0; 8];
    parent.read_exact(&mut bytes).unwrap();
    u64::from_ne_bytes(bytes)
}
