//! Every command against a running server: what people see, what programs see, and the
//! exit code.

#[path = "../../client/tests/stand_in/mod.rs"]
mod stand_in;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use insta::assert_snapshot;
use stand_in::{StandIn, server};

fn xtproxy(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtproxy"));
    command
        .arg("--runtime-dir")
        .arg(dir)
        .args(arguments)
        .env_remove("COLUMNS");
    command
}

/// What a command prints, says on stderr, and exits with.
fn outcome(dir: &Path, arguments: &[&str]) -> (String, String, i32) {
    let output = xtproxy(dir, arguments).output().unwrap();
    let text = |bytes| {
        String::from_utf8(bytes)
            .unwrap()
            .replace(&dir.display().to_string(), "DIR")
    };
    (
        text(output.stdout),
        text(output.stderr),
        output.status.code().unwrap(),
    )
}

/// What a command that does its job prints.
fn prints(dir: &Path, arguments: &[&str]) -> String {
    let (stdout, stderr, code) = outcome(dir, arguments);
    assert_eq!((stderr.as_str(), code), ("", 0), "{arguments:?}");
    stdout
}

/// The same command's JSON, which must be one document.
fn json(dir: &Path, arguments: &[&str]) -> String {
    let text = prints(dir, &[&["--json"], arguments].concat());
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    serde_json::to_string_pretty(&value).unwrap()
}

#[test]
fn status() {
    let (dir, _daemon) = server();
    assert_snapshot!("status", prints(dir.path(), &["status"]));
    assert_snapshot!("status_json", json(dir.path(), &["status"]));
}

#[test]
fn ports() {
    let (dir, _daemon) = server();
    assert_snapshot!("ports", prints(dir.path(), &["ports"]));
    assert_snapshot!("ports_json", json(dir.path(), &["ports"]));
}

#[test]
fn stats() {
    let (dir, _daemon) = server();
    assert_snapshot!("stats", prints(dir.path(), &["stats"]));
    let everything: serde_json::Value =
        serde_json::from_str(&json(dir.path(), &["stats", "--examples"])).unwrap();
    let drops = everything["drops"].as_array().unwrap();
    let happened: Vec<_> = drops.iter().filter(|drop| drop["packets"] != 0).collect();
    assert_eq!(happened.len(), 2, "{happened:?}");
    assert_eq!(everything["examples"], serde_json::json!([]));
    assert_eq!(everything["flows"]["live"], 6);
    assert_eq!(everything["workers"][0]["frames"]["total"], 4096);
    assert_eq!(everything["ports"][1]["xdp"]["divert"], 3450);

    let all = prints(dir.path(), &["stats", "--all"]);
    for reason in drops.iter().map(|drop| drop["reason"].as_str().unwrap()) {
        assert!(all.contains(reason), "{reason} is missing");
    }
    assert!(
        all.contains("forward_denied* ") && !all.contains("no_flow*"),
        "{all}"
    );
}

#[test]
fn rules() {
    let (dir, _daemon) = server();
    assert_snapshot!("rules", prints(dir.path(), &["rules", "show"]));
    assert_snapshot!("rules_json", json(dir.path(), &["rules", "show"]));
}

#[test]
fn flows_list() {
    let (dir, _daemon) = server();
    assert_snapshot!("flows", prints(dir.path(), &["flows", "list"]));
    assert_snapshot!(
        "flow_json",
        json(dir.path(), &["flows", "list", "--sport", "40003"])
    );
    assert_snapshot!(
        "no_flow",
        prints(dir.path(), &["flows", "list", "--dport", "9"])
    );
    assert_eq!(
        json(dir.path(), &["flows", "list", "--dport", "9"]).replace([' ', '\n'], ""),
        r#"{"flows":[]}"#
    );
}

#[test]
fn filters_select() {
    let (dir, _daemon) = server();
    for (filter, count) in [
        (&[][..], 6),
        (&["--proto", "tcp"], 5),
        (&["--proto", "17"], 1),
        (&["--src", "10.1.0.1"], 1),
        (&["--src", "10.1.0.0/30"], 3),
        (&["--sport", "40002:40003"], 2),
        (&["--dst", "192.0.2.0/24"], 4),
        (&["--dport", "80"], 4),
        (&["--kind", "local"], 1),
        (&["--kind", "redirect", "--proto", "udp"], 1),
        (&["--state", "half_closed"], 1),
        (&["--id", "4294967298"], 1),
        (&["--id", "2"], 0),
        (&["--id", "4294967298", "--proto", "udp"], 0),
    ] {
        let arguments = [&["flows", "count"], filter].concat();
        let text = json(dir.path(), &arguments).replace([' ', '\n'], "");
        assert_eq!(text, format!(r#"{{"count":{count}}}"#), "{filter:?}");
        let listed = prints(dir.path(), &[&["flows", "list"], filter].concat());
        // A heading, or the word that there is none.
        assert_eq!(
            listed.lines().count(),
            if count == 0 { 1 } else { count + 1 },
            "{listed}"
        );
    }
    assert_eq!(prints(dir.path(), &["flows", "count"]), "6 flows\n");
    assert_eq!(
        prints(dir.path(), &["flows", "count", "--kind", "local"]),
        "1 flow\n"
    );
}

#[test]
fn kill_removes_what_matches_and_nothing_else() {
    let (dir, daemon) = server();
    assert_eq!(
        prints(dir.path(), &["flows", "kill", "--dst", "192.0.2.4"]),
        "1 flow killed\n"
    );
    assert_eq!(daemon.live(), 5);
    assert_eq!(
        prints(dir.path(), &["flows", "kill", "--dst", "192.0.2.4"]),
        "0 flows killed\n"
    );
    let text = json(dir.path(), &["flows", "kill", "--proto", "tcp"]).replace([' ', '\n'], "");
    assert_eq!(text, r#"{"killed":4}"#);
    assert_eq!(daemon.live(), 1);
    assert_eq!(
        prints(dir.path(), &["flows", "count", "--proto", "udp"]),
        "1 flow\n"
    );
}

#[test]
fn flush_removes_everything() {
    let (dir, daemon) = server();
    assert_eq!(prints(dir.path(), &["flows", "flush"]), "6 flows killed\n");
    assert_eq!(daemon.live(), 0);
    let stats: serde_json::Value = serde_json::from_str(&json(dir.path(), &["stats"])).unwrap();
    assert_eq!(stats["flows"]["killed"], 6);
}

#[test]
fn kill_without_a_filter_is_a_usage_error() {
    let (dir, daemon) = server();
    let (stdout, stderr, code) = outcome(dir.path(), &["flows", "kill"]);
    assert_eq!((stdout.as_str(), code), ("", 2));
    assert_snapshot!("kill_without_filter", stderr);
    assert_eq!(daemon.live(), 6);
}

#[test]
fn mistakes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let mistakes: [&[&str]; 9] = [
        &[],
        &["sing"],
        &["flows"],
        &["flows", "list", "--dport", "90:80"],
        &["flows", "list", "--src", "10.0.0.0/33"],
        &["flows", "list", "--proto", "tpc"],
        &["flows", "list", "--kind", "tunnel"],
        &["flows", "list", "--state", "open"],
        &["status", "now"],
    ];
    let mut all = String::new();
    for arguments in mistakes {
        let (stdout, stderr, code) = outcome(dir.path(), arguments);
        assert_eq!((stdout.as_str(), code), ("", 2), "{arguments:?}");
        all += &format!("$ xtproxy {}\n{stderr}\n", arguments.join(" "));
    }
    assert_snapshot!("mistakes", all);
}

#[test]
fn help_teaches() {
    let dir = tempfile::tempdir().unwrap();
    assert_snapshot!("help", prints(dir.path(), &["--help"]));
    assert_snapshot!(
        "help_flows_kill",
        prints(dir.path(), &["flows", "kill", "--help"])
    );
}

#[test]
fn no_daemon_is_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let (stdout, stderr, code) = outcome(dir.path(), &["status"]);
    assert_eq!((stdout.as_str(), code), ("", 1));
    assert_snapshot!("no_daemon", stderr);
    let stale = std::os::unix::net::UnixListener::bind(dir.path().join("control.sock")).unwrap();
    drop(stale);
    assert_eq!(
        outcome(dir.path(), &["status"]).1,
        stderr,
        "a stale socket reads the same"
    );
}

#[test]
fn only_root_may_ask() {
    // Where everybody can reach the program and the socket.
    let dir = tempfile::Builder::new()
        .prefix("xtproxy-cli")
        .tempdir_in("/tmp")
        .unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("xtproxy");
    std::fs::copy(env!("CARGO_BIN_EXE_xtproxy"), &program).unwrap();
    let _daemon = StandIn::start(dir.path(), None);
    let ask = || {
        let mut command = Command::new(&program);
        command
            .arg("--runtime-dir")
            .arg(dir.path())
            .arg("status")
            .uid(65534)
            .gid(65534);
        let output = command.current_dir("/").output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, message) = ask();
    assert!(
        code == Some(1) && message.contains("permission denied: only root"),
        "{message}"
    );
    // Not even when the socket's mode has been loosened.
    let socket = dir.path().join("control.sock");
    std::fs::set_permissions(&socket, PermissionsExt::from_mode(0o666)).unwrap();
    let (code, message) = ask();
    assert!(
        code == Some(1) && message.contains("only root may ask; you are user 65534"),
        "{message}"
    );
}

#[test]
fn very_long_lists_come_whole() {
    let dir = tempfile::tempdir().unwrap();
    let _daemon = StandIn::start(dir.path(), Some(100_000));
    let text = prints(dir.path(), &["--json", "flows", "list"]);
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(list["flows"].as_array().unwrap().len(), 100_000);
    let rows = prints(dir.path(), &["flows", "list"]);
    assert_eq!(
        rows.lines()
            .filter(|line| line.contains("192.0.2.1:80 "))
            .count(),
        100_000
    );
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let _daemon = StandIn::start(dir.path(), Some(20_000));
    for arguments in [&["flows", "list"][..], &["--json", "flows", "list"]] {
        let mut command = xtproxy(dir.path(), arguments);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut first)
            .unwrap();
        let status = child.wait().unwrap();
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        assert_eq!(
            (status.code(), stderr.as_str()),
            (Some(0), ""),
            "{arguments:?}"
        );
    }
}
