//! Which sockets the watch tells of, and by which ways they close.

mod child;
mod many;
#[path = "../netns/mod.rs"]
mod netns;
mod ways;

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use netns::isolated;
use rustix::net::sockopt::socket_cookie;
use xdp_prog::{Error, News, SocketWatch};

/// How long a close may take to be told, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long nothing has to be told to be believed.
const SILENCE: Duration = Duration::from_millis(100);

fn watch(most: u32) -> SocketWatch {
    SocketWatch::attach(most).unwrap_or_else(|e| panic!("{e}"))
}

fn udp() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

fn cookie(socket: &impl AsFd) -> u64 {
    socket_cookie(socket).unwrap()
}

fn news(watch: &mut SocketWatch, told: &mut Vec<u64>) {
    let news = watch.closed(usize::MAX, |cookie| told.push(cookie));
    assert_eq!(news.unwrap(), News::default());
}

/// Waits for so many, and then a little for more. None may be lost.
fn told(watch: &mut SocketWatch, want: usize) -> Vec<u64> {
    let end = Instant::now() + PATIENCE;
    let mut told = Vec::new();
    while told.len() < want && Instant::now() < end {
        news(watch, &mut told);
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(SILENCE);
    news(watch, &mut told);
    told
}

fn assert_silent(watch: &mut SocketWatch) {
    assert_eq!(told(watch, 0), []);
}

#[test]
fn a_close_is_told_once_and_of_watched_sockets_only() {
    let mut watch = watch(16);
    let (socket, stranger) = (udp(), udp());
    let watched = cookie(&socket);
    watch.add(watched, true).unwrap();
    watch.add(watched, true).unwrap();
    drop(stranger);
    assert_silent(&mut watch);
    drop(socket);
    assert_eq!(told(&mut watch, 1), [watched]);
    assert_silent(&mut watch);
}

#[test]
fn no_more_are_told_at_once_than_asked_for() {
    let mut watch = watch(16);
    let sockets: Vec<UdpSocket> = (0..5).map(|_| udp()).collect();
    let cookies: Vec<u64> = sockets.iter().map(cookie).collect();
    for watched in &cookies {
        watch.add(*watched, false).unwrap();
    }
    drop(sockets);
    let (mut told, end) = (Vec::new(), Instant::now() + PATIENCE);
    while told.len() < 5 {
        assert!(Instant::now() < end, "{told:?}");
        let before = told.len();
        let news = watch.closed(2, |cookie| told.push(cookie)).unwrap();
        assert!(!news.lost);
        assert!(told.len() <= before + 2);
        assert_eq!(news.more, told.len() == before + 2);
    }
    assert_eq!(told, cookies);
    assert_silent(&mut watch);
}

#[test]
fn one_that_closed_while_it_was_watched_is_not_watched_again() {
    let mut watch = watch(2);
    let socket = udp();
    let watched = cookie(&socket);
    watch.add(watched, false).unwrap();
    watch.add(watched, true).unwrap();
    drop(socket);
    assert_eq!(told(&mut watch, 1), [watched]);
    let error = watch.add(watched, true).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains(&watched.to_string()) && said.contains("closed"),
        "{said}"
    );
    assert_silent(&mut watch);
    // Nor does it take a place.
    let others = [udp(), udp()];
    for other in &others {
        watch.add(cookie(other), true).unwrap();
    }
}

#[test]
fn one_of_two_duplicates_is_no_close() {
    let mut watch = watch(16);
    let socket = udp();
    let watched = cookie(&socket);
    watch.add(watched, true).unwrap();
    let duplicate = socket.try_clone().unwrap();
    drop(socket);
    assert_silent(&mut watch);
    drop(duplicate);
    assert_eq!(told(&mut watch, 1), [watched]);
}

#[test]
fn who_is_watched_no_longer_is_not_told() {
    let mut watch = watch(16);
    let (stays, goes) = (udp(), udp());
    let watched = cookie(&stays);
    watch.add(watched, true).unwrap();
    watch.add(cookie(&goes), true).unwrap();
    watch.remove(cookie(&goes));
    watch.remove(cookie(&goes));
    drop(goes);
    assert_silent(&mut watch);
    drop(stays);
    assert_eq!(told(&mut watch, 1), [watched]);
}

#[test]
fn what_has_closed_is_told_whoever_stops_watching_after_that() {
    let (mut watch, mut witness) = (watch(16), watch(16));
    let socket = udp();
    let watched = cookie(&socket);
    watch.add(watched, true).unwrap();
    witness.add(watched, true).unwrap();
    drop(socket);
    assert_eq!(told(&mut witness, 1), [watched]);
    watch.remove(watched);
    assert_eq!(told(&mut watch, 1), [watched]);
}

#[test]
fn every_kind_of_socket_is_told() {
    let mut watch = watch(16);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    let listener6 = TcpListener::bind("[::1]:0").unwrap();
    let connected = udp();
    connected.connect("127.0.0.1:9").unwrap();
    let mut cookies = vec![
        cookie(&listener),
        cookie(&client),
        cookie(&accepted),
        cookie(&listener6),
        cookie(&connected),
    ];
    for watched in &cookies {
        watch.add(*watched, true).unwrap();
    }
    drop((listener, client, accepted, listener6, connected));
    let mut told = told(&mut watch, cookies.len());
    told.sort_unstable();
    cookies.sort_unstable();
    assert_eq!(told, cookies);
}

#[test]
fn sockets_of_other_network_namespaces_are_told() {
    let watch = Arc::new(Mutex::new(watch(16)));
    let (ours, theirs) = (udp(), Arc::clone(&watch));
    watch.lock().unwrap().add(cookie(&ours), true).unwrap();
    isolated(move || {
        // Sent to this thread, and asked from this namespace.
        let mut watch = theirs.lock().unwrap();
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let watched = cookie(&socket);
        watch.add(watched, true).unwrap();
        drop(socket);
        assert_eq!(told(&mut watch, 1), [watched]);
    });
    let watched = cookie(&ours);
    drop(ours);
    assert_eq!(told(&mut watch.lock().unwrap(), 1), [watched]);
}

#[test]
fn two_watches_do_not_disturb_each_other() {
    let (mut one, mut other) = (watch(4), watch(4));
    let (socket, second) = (udp(), udp());
    let (both, single) = (cookie(&socket), cookie(&second));
    one.add(both, true).unwrap();
    other.add(both, true).unwrap();
    other.add(single, true).unwrap();
    drop((socket, second));
    assert_eq!(told(&mut one, 1), [both]);
    let mut told = told(&mut other, 2);
    told.sort_unstable();
    assert_eq!(told, [both.min(single), both.max(single)]);
    drop(one);
    let third = udp();
    let watched = cookie(&third);
    other.add(watched, true).unwrap();
    drop(third);
    assert_eq!(self::told(&mut other, 1), [watched]);
}

#[test]
fn one_too_many_is_refused_by_name() {
    let mut watch = watch(2);
    let sockets = [udp(), udp(), udp()];
    let cookies = sockets.each_ref().map(cookie);
    watch.add(cookies[0], true).unwrap();
    watch.add(cookies[1], true).unwrap();
    let error = watch.add(cookies[2], true).unwrap_err();
    assert!(matches!(error, Error::TooMany { most: 2, .. }), "{error:?}");
    assert!(
        error.to_string().contains(&cookies[2].to_string()),
        "{error}"
    );
    watch.remove(cookies[0]);
    watch.add(cookies[2], true).unwrap();
    drop(sockets);
    let mut told = told(&mut watch, 2);
    told.sort_unstable();
    assert_eq!(told.len(), 2);
    assert!(!told.contains(&cookies[0]));
    SocketWatch::attach(u32::MAX)
        .err()
        .expect("that is too many");
}
