use std::fmt::Write;
use std::path::Path;

use proptest::prelude::*;

use super::{Config, ConfigError, Established, Mode, OnExit, Proto, Whom};

const CORES: [usize; 3] = [0, 1, 5];
const PORT: &str = "[[port]]\ninterface = \"eth1\"\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text.as_bytes(), Path::new("x.toml"), &CORES)
}

fn good(text: &str) -> Config {
    parse(text).unwrap_or_else(|error| panic!("{error}"))
}

const FULL: &str = r#"
runtime_dir = "/run/fw"
workers     = [1, 5]
busy        = true
on_exit     = "open"
host_port   = "fw0"
[[port]]
interface = "eth1"
zone      = "intra"
mode      = "generic"
[[port]]
interface = "eth2"
[zone.intra]
networks = ["192.168.1.0/24", "10.0.0.0/8"]
[zone.lab]
parent = "intra"
interfaces = ["eth2"]
inbound_services = []
outbound_services = ["http", "*"]
[zone.inter]
[service.http]
proxy = "192.168.1.1:50080"
[rules]
established = "keep"
[[management]]
zone  = "intra"
proto = "tcp"
port  = 22
[[management]]
networks = ["10.1.0.0/16"]
proto = "udp"
port  = 161
[[grant]]
user = 1000
foreign = ["0.0.0.0/0"]
[[grant]]
group = "daemon"
foreign = ["192.168.1.0/24", "198.51.100.7/32"]
[limits]
flows = 4096
registrations = 64
frames_per_worker = 1024
[timeouts]
tcp_established = "3h"
tcp_transitory = "5m"
tcp_closed = 10
udp = "300s"
"#;

#[test]
fn everything_that_can_be_said() {
    let config = good(FULL);
    assert_eq!(config.runtime_dir, Path::new("/run/fw"));
    assert_eq!(config.workers, Some(vec![1, 5]));
    assert_eq!((config.busy, config.on_exit), (true, OnExit::Open));
    assert_eq!(config.host_port, "fw0");
    assert_eq!(config.ports[0].interface, "eth1");
    assert_eq!(config.ports[0].zone.as_deref(), Some("intra"));
    assert_eq!(config.ports[0].mode, Mode::Generic);
    assert_eq!(
        (config.ports[1].zone.as_deref(), config.ports[1].mode),
        (Some("lab"), Mode::Auto)
    );
    let lab = &config.zones["lab"];
    assert_eq!(lab.parent.as_deref(), Some("intra"));
    assert_eq!(lab.inbound.as_deref(), Some(&[][..]));
    let both = ["http".to_owned(), "*".to_owned()];
    assert_eq!(lab.outbound.as_deref(), Some(&both[..]));
    assert_eq!(config.zones["intra"].outbound, None);
    assert_eq!(
        config.services["http"].proxy.to_string(),
        "192.168.1.1:50080"
    );
    assert_eq!(config.established, Established::Keep);
    assert_eq!(
        config.management[0].networks,
        config.zones["intra"].networks
    );
    assert_eq!(config.management[0].networks.len(), 2);
    assert_eq!(
        (config.management[0].proto, config.management[0].port),
        (Proto::Tcp, 22)
    );
    assert_eq!(config.management[1].networks[0].to_string(), "10.1.0.0/16");
    assert_eq!(
        (config.management[1].proto, config.management[1].port),
        (Proto::Udp, 161)
    );
    assert_eq!(
        (config.limits.flows, config.limits.frames_per_worker),
        (4096, 1024)
    );
    assert_eq!(config.limits.registrations, 64);
    // A group that every Debian has, with this number.
    let whom = config.grants.iter().map(|grant| grant.whom);
    assert!(whom.eq([Whom::User(1000), Whom::Group(1)]));
    assert_eq!(config.grants[1].foreign[1].to_string(), "198.51.100.7/32");
    let timeouts = config.timeouts;
    let seconds = [
        timeouts.tcp_established,
        timeouts.tcp_transitory,
        timeouts.tcp_closed,
        timeouts.udp,
    ]
    .map(|timeout| timeout.as_secs());
    assert_eq!(seconds, [10_800, 300, 10, 300]);
    assert_eq!(
        config.warnings,
        ["there is no ruleset: all transit is dropped"]
    );
}

#[test]
fn a_port_is_enough() {
    let config = good(PORT);
    assert_eq!(config.runtime_dir, Path::new("/run/xtproxy"));
    assert_eq!((config.workers, config.ruleset), (None, None));
    assert_eq!((config.busy, config.on_exit), (false, OnExit::Closed));
    assert_eq!(config.host_port, "xtp0");
    assert_eq!(
        (config.limits.flows, config.limits.frames_per_worker),
        (262_144, 8192)
    );
    assert_eq!(config.timeouts.tcp_established.as_secs(), 7440);
}

#[test]
fn what_is_allowed_and_odd_is_warned_of() {
    let text = format!(
        "busy = true\n{PORT}[timeouts]\ntcp_established = 60\ntcp_transitory = \"10s\"\nudp = 30\n"
    );
    assert_eq!(
        good(&text).warnings,
        [
            "there is no ruleset: all transit is dropped",
            "busy = true on every core leaves none to the kernel and the proxies; list fewer \
             workers",
            "tcp_established = 60s is shorter than the 7440s of RFC 5382: idle connections may \
             break",
            "tcp_transitory = 10s is shorter than the 240s of RFC 5382: idle connections may \
             break",
            "udp = 30s is shorter than the 120s of RFC 4787: idle connections may break",
        ]
    );
}

#[test]
fn the_ruleset_is_looked_for_beside_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.toml");
    std::fs::write(&path, format!("ruleset = \"rules\"\n{PORT}")).expect("written");
    let error = Config::load(&path).expect_err("no ruleset yet");
    assert_eq!(
        error.to_string(),
        format!(
            "{}:1:11: ruleset {}: No such file or directory (os error 2)",
            path.display(),
            folder.path().join("rules").display()
        )
    );
    std::fs::write(folder.path().join("rules"), "").expect("written");
    let config = Config::load(&path).expect("good");
    assert_eq!(config.ruleset, Some(folder.path().join("rules")));
    assert_eq!(config.warnings, [""; 0]);
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Config::load(Path::new("/nonexistent/x.toml")).expect_err("none");
    assert_eq!(
        error.to_string(),
        "/nonexistent/x.toml: cannot be read: No such file or directory (os error 2)"
    );
    let error = Config::load(Path::new("/dev/zero")).expect_err("endless");
    assert_eq!(error.to_string(), "/dev/zero: is larger than 1 MiB");
    let error = Config::parse(b"a = 1\n \xff", Path::new("x.toml"), &CORES);
    assert_eq!(
        error.expect_err("binary").to_string(),
        "x.toml:2:2: this is not UTF-8 text"
    );
}

/// What stands before a `[[port]]`, or behind it, and is wrong.
const WRONG_BEFORE: &[&str] = &[
    "runtime_dir = 3",
    "runtime_dir = \"run\"",
    "runtimedir = \"/run\"",
    "colour = \"red\"",
    "\"a\\nb\\u001b[2J\" = 1",
    "runtime_dir = ",
    "runtime_dir = \"/run\" x",
    "runtime_dir = \"/run",
    "runtime_dir = \"/a\"\nruntime_dir = \"/b\"",
    "ruleset = \"/nonexistent/rules\"",
    "ruleset = \"/\"",
    "workers = 2",
    "workers = []",
    "workers = [0, 7]",
    "workers = [0, -1]",
    "workers = [5,\n  1,\n  5]",
    "busy = \"yes\"",
    "on_exit = \"ajar\"",
    "host_port = \"\"",
    "host_port = \"thirteen-long\"",
    "host_port = \"sixteen-bytes-it\"",
    "host_port = \"x p\"",
    "host_port = \"eth1\"",
    "[limits]\nflows = 99999999999999999999\n",
    "[zone]\nintra = 5\n",
];

const WRONG_BEHIND: &[&str] = &[
    "[[port]]",
    "[[port]]\ninterface = \"eth1\"",
    "[[port]]\ninterface = \"\"",
    "[[port]]\ninterface = \"..\"",
    "[[port]]\ninterface = \"eth2/0\"",
    "[[port]]\ninterface = \"eth2 \"",
    "[[port]]\ninterface = \"a-name-that-is-too-long\"",
    "[[port]]\ninterfaces = \"eth2\"",
    "[[port]]\ninterface = \"eth2\"\nmode = \"native\"",
    "[[port]]\ninterface = \"eth2\"\nzone = \"intra\"",
    "[[port]]\ninterface = \"eth2\"\nzone = \"intar\"\n[zone.intra]",
    "[port.eth2]",
    "[zone.intra]\nnetworks = \"10.0.0.0/8\"",
    "[zone.intra]\nnetworks = [\"10.0.0.0/8\", \"ten\"]",
    "[zone.intra]\nnetworks = [\"10.0.0.1/8\"]",
    "[zone.intra]\nnetworks = [\"10.0.0.1\"]",
    "[zone.intra]\nnetworks = [\"10.0.0.0/33\"]",
    "[zone.intra]\nnetworks = [\"2001:db8::/32\"]",
    "[zone.intra]\nnetworks = [\"10.0.0.0/8\", \"10.0.0.0/8\"]",
    "[zone.a]\nnetworks = [\"10.0.0.0/8\"]\n[zone.b]\nnetworks = [\"10.0.0.0/8\"]",
    "[zone.intra]\nnetwork = []",
    "[zone.intra]\nparent = \"inter\"",
    "[zone.intra]\nparent = \"inter\"\n[zone.intr]",
    "[zone.a]\nparent = \"a\"",
    "[zone.a]\nparent = \"b\"\n[zone.b]\nparent = \"c\"\n[zone.c]\nparent = \"a\"",
    "[zone.d]\nparent = \"e\"\n[zone.e]\nparent = \"f\"\n[zone.f]\nparent = \"e\"",
    "[zone.a]\ninterfaces = [\"eth9\"]",
    "[zone.a]\ninterfaces = [\"eth1\"]\n[zone.b]\ninterfaces = [\"eth1\"]",
    "[[port]]\ninterface = \"eth2\"\nzone = \"a\"\n[zone.a]\n[zone.b]\ninterfaces = [\"eth2\"]",
    "[zone.a]\ninbound_services = [\"htpp\"]\n[service.http]\nproxy = \"10.0.0.1:80\"",
    "[zone.a]\noutbound_services = [\"http\"]",
    "[service.http]\nproxy = \"10.0.0.1\"",
    "[service.http]\nproxy = \"10.0.0.1:0\"",
    "[service.http]\nproxy = \"0.0.0.0:80\"",
    "[service.\"*\"]\nproxy = \"10.0.0.1:80\"",
    "[service.a]\nproxy = \"10.0.0.1:80\"\n[service.b]\nproxy = \"10.0.0.1:80\"",
    "[service.http]",
    "[rules]\nestablished = \"kept\"",
    "[[management]]\nproto = \"tcp\"\nport = 22",
    "[[grant]]\nforeign = [\"0.0.0.0/0\"]",
    "[[grant]]\nuser = \"nobody-has-this-name\"\nforeign = [\"0.0.0.0/0\"]",
    "[[grant]]\ngroup = \"nobody-has-this-name\"\nforeign = [\"0.0.0.0/0\"]",
    "[[grant]]\nuser = -1\nforeign = [\"0.0.0.0/0\"]",
    "[[grant]]\nuser = 4294967295\nforeign = [\"0.0.0.0/0\"]",
    "[[grant]]\nuser = 1\ngroup = 1\nforeign = [\"0.0.0.0/0\"]",
    "[[grant]]\nuser = 1\nforeign = []",
    "[[grant]]\nuser = 1",
    "[[grant]]\nuser = 1\nforeign = [\"10.0.0.1\"]",
    "[limits]\nregistrations = 1",
    "[[management]]\nnetworks = []\nproto = \"tcp\"\nport = 22",
    "[[management]]\nnetworks = [\"10.0.0.0/8\"]\nproto = \"sctp\"\nport = 22",
    "[[management]]\nnetworks = [\"10.0.0.0/8\"]\nproto = \"tcp\"",
    "[[management]]\nnetworks = [\"10.0.0.0/8\"]\nproto = \"tcp\"\nport = 0",
    "[[management]]\nnetworks = [\"10.0.0.0/8\"]\nproto = \"tcp\"\nport = 65536",
    "[[management]]\nnetworks = [\"10.0.0.0/8\"]\nproto = \"tcp\"\nport = \"ssh\"",
    "[[management]]\nzone = \"intra\"\nproto = \"tcp\"\nport = 22",
    "[[management]]\nzone = \"intra\"\nproto = \"tcp\"\nport = 22\n[zone.intra]",
    "[[management]]\nzone = \"a\"\nnetworks = [\"10.0.0.0/8\"]\nproto = \"tcp\"\nport = 22\n[zone.a]",
    "[limits]\nflows = 1023",
    "[limits]\nflows = 16777217",
    "[limits]\nflows = 4.5",
    "[limits]\nframes_per_worker = 5000",
    "[limits]\nframes_per_worker = 524288",
    "[limits]\nflow = 5000",
    "[timeouts]\nudp = 0",
    "[timeouts]\nudp = -5",
    "[timeouts]\nudp = \"5\"",
    "[timeouts]\nudp = \"m\"",
    "[timeouts]\nudp = \"+5m\"",
    "[timeouts]\nudp = \"5 parsecs\"",
    "[timeouts]\nudp = \"31d\"",
    "[timeouts]\nudp = \"99999999999999999999d\"",
    "[timeouts]\nudp = true",
    "[timeouts]\ntcp_establised = 5",
];

#[test]
fn every_error_is_one_line_with_its_place() {
    let mut told = String::new();
    let behind = WRONG_BEHIND.iter().map(|wrong| format!("{PORT}{wrong}\n"));
    let before = WRONG_BEFORE.iter().map(|wrong| format!("{wrong}\n{PORT}"));
    let none = ["busy = false\n", "[port]\ninterface = \"eth1\"\n"].map(str::to_owned);
    let many = std::iter::once((0..33).fold(String::new(), |mut text, n| {
        writeln!(text, "[[port]]\ninterface = \"eth{n}\"").expect("a string");
        text
    }));
    for text in before.chain(behind).chain(none).chain(many) {
        let error = parse(&text).expect_err(&text).to_string();
        assert!(!error.contains(char::is_control), "{error:?}");
        writeln!(told, "{error}").expect("a string");
    }
    insta::assert_snapshot!(told);
}

/// A valid configuration with some of its bytes replaced.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((0..FULL.len(), any::<u8>()), 0..8);
    edits.prop_map(|edits| {
        let mut bytes = FULL.as_bytes().to_vec();
        for (at, byte) in edits {
            bytes[at] = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn no_bytes_crash_it(bytes in prop_oneof![
        prop::collection::vec(any::<u8>(), 0..200),
        "\\PC{0,200}".prop_map(String::into_bytes),
        mutated(),
    ]) {
        if let Err(error) = Config::parse(&bytes, Path::new("x.toml"), &CORES) {
            let error = error.to_string();
            prop_assert!(error.starts_with("x.toml:"), "{}", error);
            prop_assert!(!error.contains(char::is_control), "{:?}", error);
        }
    }
}
