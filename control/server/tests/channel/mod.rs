//! The tests, by what a client is like.

mod captured;
mod hostile;
mod others;
mod proxies;

use std::path::Path;
use std::time::{Duration, Instant};

use protocol::{CONTROL_SOCKET, Registration, Reply, Stats, Status};

use crate::conversation::{connect, reply};
use crate::proxy::SOON;

/// What one who may see it is told.
fn ask(dir: &Path, request: &str) -> Reply {
    use std::io::Write;
    let mut stream = connect(dir, CONTROL_SOCKET);
    writeln!(stream, r#"{{"version":1,"request":"{request}"}}"#).unwrap();
    reply(&stream)
}

fn registrations(dir: &Path) -> Vec<Registration> {
    match ask(dir, "registrations") {
        Reply::Registrations {
            registrations,
            more: false,
        } => registrations,
        other => panic!("{other:?}"),
    }
}

fn status(dir: &Path) -> Status {
    match ask(dir, "status") {
        Reply::Status(status) => *status,
        other => panic!("{other:?}"),
    }
}

fn stats(dir: &Path) -> Stats {
    match ask(dir, "stats") {
        Reply::Stats(stats) => stats,
        other => panic!("{other:?}"),
    }
}

/// Waits until so many are left.
fn await_registrations(dir: &Path, count: usize) {
    let start = Instant::now();
    while registrations(dir).len() != count {
        assert!(start.elapsed() < SOON, "{:?}", registrations(dir));
        std::thread::sleep(Duration::from_millis(5));
    }
}
