//! The daemon comes and goes: the box stays reachable, transit stays closed, the next start
//! takes over, and `--detach` leaves nothing.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use e2e::{RULES, Script, Stage, in_both_modes, play, server};
use lab::command::output;
use lab::connection::exchange;
use lab::topology::{FW_INTRA, SERVER};
use lab::web::{PAGE, fetch_page};
use lab::{Behaviour, BoxState, Config, Daemon, Lab, Mode, Peer, Plan};

in_both_modes! {
    shell_session_survives,
    closed_after_sigterm,
    closed_after_sigkill,
    next_start_takes_over,
    detach_restores_the_box,
    detach_restores_after_a_crash,
}

/// A service of the box itself that no rule concerns.
const SHELL: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 2222);

fn shell_session_survives(mode: Mode) {
    play(&Script::new(mode), |stage| {
        stage.allow_service(SHELL);
        let _shell = Peer::listen(&stage.lab.fw, SHELL, Behaviour::Echo)?;
        stage.daemon.terminate()?;
        stage.daemon.detach(&stage.lab)?;
        // Begun before any start of the daemon.
        let session = stage.connect(SHELL)?;
        let mut count = 0;
        let mut still = |when: &str| -> Result<()> {
            count += 1;
            let line = format!("{count} {when}");
            let answer = exchange(&session, &line).with_context(|| format!("{when}: no answer"))?;
            ensure!(answer == line, "{when}: {answer}");
            Ok(())
        };
        still("without a daemon")?;
        stage.daemon.start_again(&stage.lab)?;
        still("after the start")?;
        stage.daemon.terminate()?;
        still("after SIGTERM")?;
        stage.daemon.start_again(&stage.lab)?;
        still("after the second start")?;
        stage.daemon.crash()?;
        still("after SIGKILL")?;
        stage.daemon.start_again(&stage.lab)?;
        still("after the third start")?;
        let second = stage.connect(SHELL)?;
        assert_eq!(exchange(&second, "a new session")?, "a new session");
        // And the daemon does work, or the session would prove nothing.
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        Ok(())
    });
}

fn closed_after_sigterm(mode: Mode) {
    closed_after(mode, |daemon| {
        let status = daemon.terminate()?;
        ensure!(status.success(), "SIGTERM ends it with {status}");
        Ok(())
    });
}

fn closed_after_sigkill(mode: Mode) {
    closed_after(mode, |daemon| daemon.crash().map(drop));
}

/// Even a kernel that would forward must not get to see transit.
fn closed_after(mode: Mode, end: impl FnOnce(&mut Daemon) -> Result<()>) {
    let reports = play(&Script::new(mode), |stage| {
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        end(&mut stage.daemon)?;
        let before = stage.web.accesses()?.len();
        stage.lab.fw.sysctl("net.ipv4.ip_forward", "1")?;
        let _peer = Peer::listen(&stage.lab.server, server(9999), Behaviour::Echo)?;
        ensure!(
            stage.is_dropped(None, server(80))?,
            "a claimed port is open"
        );
        ensure!(
            stage.is_dropped(None, server(9999))?,
            "an unclaimed port is open"
        );
        let ping = format!("ping -c 1 -W 1 {SERVER}");
        stage.lab.client.run(&ping).expect_err("a ping got through");
        assert_eq!(stage.web.accesses()?.len(), before);
        // The box itself still answers.
        stage.lab.client.run("ping -c 1 -W 2 192.168.1.1")?;
        Ok(())
    });
    assert!(reports.server.tcp.keys().all(|(_, to)| to.port() != 9999));
    assert_eq!(reports.server.count("icmp"), 0, "{reports:?}");
}

fn next_start_takes_over(mode: Mode) {
    play(&Script::new(mode), |stage| {
        for round in 0..3 {
            let page = fetch_page(&stage.lab.client, SERVER);
            assert_eq!(page.with_context(|| format!("round {round}"))?, PAGE);
            if round % 2 == 0 {
                stage.daemon.crash()?;
            } else {
                stage.daemon.terminate()?;
            }
            stage.daemon.start_again(&stage.lab)?;
        }
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        Ok(())
    });
}

fn detach_restores_the_box(mode: Mode) {
    restored(mode, |daemon| daemon.terminate().map(drop));
}

fn detach_restores_after_a_crash(mode: Mode) {
    restored(mode, |daemon| {
        daemon.crash()?;
        Ok(())
    });
}

/// Without the stage: the box must be seen before the daemon's first start.
fn restored(mode: Mode, end: impl FnOnce(&mut Daemon) -> Result<()>) {
    let act = || -> Result<()> {
        let lab = Lab::build(&Plan::default())?;
        let before = BoxState::read(&lab.fw)?;
        let mut daemon = Daemon::start(&lab, &Config::new(mode, RULES))?;
        before.check_changed(&BoxState::read(&lab.fw)?)?;
        status_lists_changes(&daemon)?;
        daemon.check_frames()?;
        end(&mut daemon)?;
        // Closed: the programs stay.
        before.check_changed(&BoxState::read(&lab.fw)?)?;
        for _ in 0..2 {
            // The second time there is nothing left to do, and that is fine.
            let detached = daemon.detach(&lab)?;
            let said = String::from_utf8_lossy(&detached.stderr).into_owned();
            ensure!(detached.status.success(), "--detach: {said}");
        }
        before.check_same(&BoxState::read(&lab.fw)?)?;
        daemon.start_again(&lab)?;
        daemon.check_frames()
    };
    act().unwrap_or_else(|error| panic!("{error:#}"));
}

/// Programs are found by name, so a daemon with another folder must ask whose they are.
#[test]
fn another_folder_leaves_a_running_daemon_alone() {
    let act = || -> Result<()> {
        let lab = Lab::build(&Plan::default())?;
        let mut daemon = Daemon::start(&lab, &Config::new(Mode::Auto, RULES))?;
        let running = BoxState::read(&lab.fw)?;
        let text = std::fs::read_to_string(daemon.config())?;
        let folder = format!("{:?}", lab::daemon::runtime_dir(&lab));
        let other = lab.dir().join("other");
        let start: &[&str] = &[];
        for (host_port, args) in [("xtp0", start), ("xtp1", start), ("xtp0", &["--detach"])] {
            let text = text.replace(&folder, &format!("{other:?}\nhost_port = {host_port:?}"));
            let config = lab.dir().join("other.toml");
            std::fs::write(&config, text)?;
            let ended = lab::daemon::run_daemon(&lab, &config, args)?;
            let case = format!("{host_port} {args:?}");
            ensure!(ended.status.code() == Some(1), "{case}: {}", ended.status);
            let same = running.check_same(&BoxState::read(&lab.fw)?);
            same.with_context(|| case)?;
        }
        daemon.check_alive()
    };
    act().unwrap_or_else(|error| panic!("{error:#}"));
}

/// Everything that the daemon is known to do to a box of two cards.
fn status_lists_changes(daemon: &Daemon) -> Result<()> {
    let status = daemon.json(&["status"])?;
    let changes = status["changes"]
        .as_array()
        .context("status has no changes")?;
    let all: Vec<String> = changes
        .iter()
        .filter_map(|change| change["what"].as_str().map(str::to_lowercase))
        .collect();
    for words in [
        ["xtp0", ""],
        ["xdp", "eth1"],
        ["xdp", "eth2"],
        ["tc", "eth1"],
        ["tc", "eth2"],
    ] {
        let listed = all
            .iter()
            .any(|what| words.iter().all(|word| what.contains(word)));
        ensure!(listed, "status does not list {words:?}: {all:?}");
    }
    let human = daemon.ask(&["status"])?;
    ensure!(
        human.contains("xtp0"),
        "xtproxy status hides xtp0:\n{human}"
    );
    Ok(())
}

#[test]
fn ports_tell_how_they_are_bound() {
    for (mode, expected) in [
        (Mode::Auto, ["copy", "native"]),
        (Mode::Generic, ["generic", "generic"]),
    ] {
        play(&Script::new(mode), |stage| {
            for port in list(stage, "ports")? {
                assert_eq!(port["bound"], expected[0], "{port}");
                assert_eq!(port["xdp"], expected[1], "{port}");
            }
            Ok(())
        });
    }
}

fn list(stage: &Stage, what: &str) -> Result<Vec<serde_json::Value>> {
    let document = stage.daemon.json(&[what])?;
    let list = document.as_array().or_else(|| document[what].as_array());
    let list = list
        .cloned()
        .with_context(|| format!("no list of {what}"))?;
    ensure!(list.len() == 2, "two {what} were configured: {list:?}");
    Ok(list)
}

#[test]
fn check_only_checks() {
    let act = || -> Result<()> {
        let lab = Lab::build(&Plan::default())?;
        let config = Config::new(Mode::Auto, RULES).write(&lab)?;
        let before = BoxState::read(&lab.fw)?;
        let checked = lab::daemon::run_daemon(&lab, &config, &["--check"])?;
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        ensure!(checked.status.success(), "--check: {said}");
        before.check_same(&BoxState::read(&lab.fw)?)?;
        let mut help = std::process::Command::new(lab::command::built("xtproxyd")?);
        ensure!(output(help.arg("--help"))?.status.success(), "--help fails");
        Ok(())
    };
    act().unwrap_or_else(|error| panic!("{error:#}"));
}
