//! The library against a running server, with real sockets.

mod stand_in;

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;

use stand_in::{StandIn, server};
use xtproxy_client::{Client, Error, OriginalDestination};

/// A connection over loopback: the connecting and the accepted socket.
fn connection(listen: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(listen).unwrap();
    let port = listener.local_addr().unwrap().port();
    let ours = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    (ours, accepted)
}

/// An address as the flow table knows it: IPv4, whatever socket it comes from.
fn v4(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Puts a flow whose answers leave by this accepted socket.
fn redirect_to(daemon: &StandIn, accepted: &TcpStream, kind: &str) -> OriginalDestination {
    let (local, peer) = (
        v4(accepted.local_addr().unwrap()),
        v4(accepted.peer_addr().unwrap()),
    );
    // The client's port is another than the one that the proxy sees.
    let source = SocketAddr::from(([10, 1, 0, 2], 40_000 ^ peer.port()));
    let destination = SocketAddr::from(([192, 0, 2, 1], 80));
    daemon.put(kind, [source, destination], [local, peer]);
    OriginalDestination {
        source,
        destination,
    }
}

#[test]
fn an_accepted_socket_knows_where_its_client_wanted_to_go() {
    let (dir, daemon) = server();
    let client = Client::connect_to(dir.path()).unwrap();
    for listen in ["127.0.0.1:0", "[::]:0"] {
        let (_ours, accepted) = connection(listen);
        let expected = redirect_to(&daemon, &accepted, "redirect");
        assert_eq!(
            client.original_destination(&accepted).unwrap(),
            expected,
            "{listen}"
        );
        // Again on the same connection to the daemon.
        assert_eq!(
            client.original_destination(&accepted.as_fd()).unwrap(),
            expected
        );
    }
}

#[test]
fn the_other_end_of_the_connection_is_not_the_redirected_one() {
    let (dir, daemon) = server();
    let client = Client::connect_to(dir.path()).unwrap();
    let (ours, accepted) = connection("127.0.0.1:0");
    redirect_to(&daemon, &accepted, "redirect");
    let error = client.original_destination(&ours).unwrap_err();
    assert!(matches!(error, Error::NotRedirected(_)), "{error}");
}

#[test]
fn direct_connections_are_not_redirected() {
    let (dir, daemon) = server();
    let client = Client::connect_to(dir.path()).unwrap();
    let (_ours, accepted) = connection("127.0.0.1:0");
    let error = client.original_destination(&accepted).unwrap_err();
    assert!(matches!(error, Error::NotRedirected(_)), "{error}");
    redirect_to(&daemon, &accepted, "local");
    let error = client.original_destination(&accepted).unwrap_err();
    assert!(matches!(error, Error::NotRedirected(_)), "{error}");
}

#[test]
fn a_socket_of_another_network_namespace_proves_nothing() {
    let (dir, daemon) = server();
    let client = Client::connect_to(dir.path()).unwrap();
    let elsewhere = std::thread::spawn(|| {
        // This thread's own namespace; it goes with the thread and its sockets.
        let flags = nix::sched::CloneFlags::CLONE_NEWNET;
        nix::sched::unshare(flags).unwrap();
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        connection("127.0.0.1:0")
    });
    let (_ours, accepted) = elsewhere.join().unwrap();
    redirect_to(&daemon, &accepted, "redirect");
    let error = client.original_destination(&accepted).unwrap_err();
    assert!(matches!(error, Error::BadSocket(_)), "{error}");
    assert!(error.to_string().contains("network namespace"), "{error}");
}

#[test]
fn a_socket_of_the_wrong_kind_is_named() {
    let (dir, _daemon) = server();
    let client = Client::connect_to(dir.path()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    for (fd, words) in [
        (listener.as_fd(), "ask about an accepted connection"),
        (
            std::fs::File::open("/dev/null").unwrap().as_fd(),
            "no socket",
        ),
    ] {
        let error = client.original_destination(&fd).unwrap_err();
        assert!(matches!(error, Error::BadSocket(_)), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn without_a_daemon_the_socket_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Client::connect_to(dir.path()).unwrap_err();
    assert!(matches!(error, Error::NoDaemon { .. }), "{error}");
    let socket = dir.path().join("client.sock");
    assert!(
        error.to_string().contains(socket.to_str().unwrap()),
        "{error}"
    );
}

#[test]
fn a_restarted_daemon_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let first = StandIn::start(dir.path(), None);
    let client = Client::connect_to(dir.path()).unwrap();
    let (_ours, accepted) = connection("127.0.0.1:0");
    let expected = redirect_to(&first, &accepted, "redirect");
    assert_eq!(client.original_destination(&accepted).unwrap(), expected);

    first.stop();
    let error = client.original_destination(&accepted).unwrap_err();
    assert!(matches!(error, Error::NoDaemon { .. }), "{error}");

    let second = StandIn::start(dir.path(), None);
    redirect_to(&second, &accepted, "redirect");
    assert_eq!(client.original_destination(&accepted).unwrap(), expected);
    // The connection is idle while the daemon is killed and comes back.
    drop(second);
    let third = StandIn::start(dir.path(), None);
    redirect_to(&third, &accepted, "redirect");
    assert_eq!(client.original_destination(&accepted).unwrap(), expected);
}

#[test]
fn many_threads_share_one_client() {
    let (dir, daemon) = server();
    let client = Client::connect_to(dir.path()).unwrap();
    let flows: Vec<_> = (0..8)
        .map(|_| {
            let (ours, accepted) = connection("127.0.0.1:0");
            let expected = redirect_to(&daemon, &accepted, "redirect");
            (ours, accepted, expected)
        })
        .collect();
    std::thread::scope(|scope| {
        for (_, accepted, expected) in &flows {
            scope.spawn(|| {
                for _ in 0..100 {
                    assert_eq!(client.original_destination(accepted).unwrap(), *expected);
                }
            });
        }
    });
}

mod asynchronous {
    use std::time::Duration;

    use xtproxy_client::AsyncClient;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn the_same_for_tasks() {
        let dir = tempfile::tempdir().unwrap();
        let first = StandIn::start(dir.path(), None);
        let client = Arc::new(AsyncClient::connect_to(dir.path()).await.unwrap());
        let (_ours, accepted) = connection("127.0.0.1:0");
        let accepted = Arc::new(accepted);
        let expected = redirect_to(&first, &accepted, "redirect");
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (client, accepted) = (Arc::clone(&client), Arc::clone(&accepted));
                tokio::spawn(async move { client.original_destination(&*accepted).await })
            })
            .collect();
        for task in tasks {
            assert_eq!(task.await.unwrap().unwrap(), expected);
        }
        // A request that is given up half-way spoils nothing for the next one.
        for _ in 0..20 {
            let asking = client.original_destination(&*accepted);
            let _ = tokio::time::timeout(Duration::ZERO, asking).await;
            assert_eq!(
                client.original_destination(&*accepted).await.unwrap(),
                expected
            );
        }
        first.stop();
        let second = StandIn::start(dir.path(), None);
        redirect_to(&second, &accepted, "redirect");
        assert_eq!(
            client.original_destination(&*accepted).await.unwrap(),
            expected
        );
    }
}
