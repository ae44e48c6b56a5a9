//! `xtproxy rules test` and `commit`: a mistake does not lock out for longer than its time.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::administrator::{CONF, NEW, filter};
use e2e::{Script, Stage, in_both_modes, play};
use lab::command::output;
use lab::ssh::Session;
use lab::topology::FW_INTRA;
use lab::{Mode, Program, SshServer};
use nix::sys::signal::Signal;

in_both_modes! {
    a_cut_session_comes_back,
    a_cut_session_comes_back_without_the_client,
    a_cut_session_comes_back_with_the_next_daemon,
    what_is_kept_stays,
    what_is_committed_stays,
}

const SOON: Duration = Duration::from_millis(1500);
/// A segment that was lost is sent again after ever longer pauses.
const LATE: Duration = Duration::from_secs(20);
/// How long rules are tried.
const TRIAL: u32 = 5;

fn open() -> String {
    filter(&[
        "-A INPUT -p tcp --dport 22 -j ACCEPT",
        "-A INPUT -m comment --comment first -j DROP",
    ])
}

fn shut() -> String {
    filter(&["-A INPUT -m comment --comment second -j DROP"])
}

fn script(mode: Mode) -> Script {
    Script::new(mode).with_ruleset(&open()).with_relays(&[])
}

/// Opens a session, tries rules that cut it, lets `meanwhile` happen, and wants it back in
/// time.
fn cut(mode: Mode, meanwhile: impl FnOnce(&mut Stage, &mut Program) -> Result<()>) {
    play(&script(mode), |stage| {
        stage.allow_service(SshServer::at(FW_INTRA));
        let ssh = SshServer::start(&stage.lab.fw, stage.lab.dir())?;
        let mut session = ssh.session(&stage.lab.client, FW_INTRA)?;
        let begun = Instant::now();
        let mut trial = stage.attempt(&shut(), "second", TRIAL)?;
        ensure!(!session.answers(SOON)?, "the session is not cut");
        ensure!(
            begun.elapsed() < Duration::from_secs(u64::from(TRIAL)),
            "too slow to tell"
        );
        meanwhile(stage, &mut trial)?;
        is_back(stage, &mut session)?;
        ensure!(
            ssh.opens(&stage.lab.client, None, FW_INTRA)?,
            "a new session"
        );
        let text = fs::read_to_string(stage.lab.dir().join(CONF))?;
        ensure!(text == open(), "the file has changed: {text}");
        Ok(())
    });
}

fn is_back(stage: &Stage, session: &mut Session) -> Result<()> {
    stage.wait_in_force("second", false)?;
    ensure!(stage.is_in_force("first")?, "not the former rules");
    ensure!(session.catches_up(LATE)?, "the session does not come back");
    ensure!(session.answers(SOON)?, "the session is not open");
    Ok(())
}

fn a_cut_session_comes_back(mode: Mode) {
    cut(mode, |_, trial| {
        let status = trial.wait()?;
        ensure!(status.code() == Some(1), "not kept, and it says {status}");
        Ok(())
    });
}

fn a_cut_session_comes_back_without_the_client(mode: Mode) {
    cut(mode, |stage, trial| {
        trial.end(Signal::SIGKILL)?;
        ensure!(stage.is_in_force("second")?, "the time is not over");
        Ok(())
    });
}

fn a_cut_session_comes_back_with_the_next_daemon(mode: Mode) {
    cut(mode, |stage, _| {
        stage.daemon.crash()?;
        stage.daemon.start_again(&stage.lab)
    });
}

fn what_is_kept_stays(mode: Mode) {
    play(&script(mode), |stage| {
        stage.write_new(&shut())?;
        let said = output(&mut stage.rules("test", &["--timeout", "2", "--keep"])?)?;
        ensure!(said.status.success(), "{said:?}");
        std::thread::sleep(Duration::from_secs(3));
        ensure!(stage.is_in_force("second")?, "it went");
        // Kept until the next start, as with the kernel's: the file is commit's.
        let text = fs::read_to_string(stage.lab.dir().join(CONF))?;
        ensure!(text == open(), "the file has changed: {text}");
        Ok(())
    });
}

fn what_is_committed_stays(mode: Mode) {
    play(&script(mode), |stage| {
        stage.commit(&shut())?;
        ensure!(stage.is_in_force("second")?);
        let text = fs::read_to_string(stage.lab.dir().join(CONF))?;
        ensure!(text == shut(), "the file: {text}");
        stage.daemon.crash()?;
        stage.daemon.start_again(&stage.lab)?;
        ensure!(stage.is_in_force("second")?, "after a crash");
        stage.daemon.terminate()?;
        stage.daemon.start_again(&stage.lab)?;
        ensure!(stage.is_in_force("second")?, "after a restart");
        Ok(())
    });
}

/// A ruleset that cannot be, in whatever way: one line with the place, and nothing changed.
#[test]
fn a_bad_ruleset_changes_nothing() {
    const BAD: [(&str, &[&str]); 6] = [
        ("-A INPUT -p tcp --dprt 22 -j ACCEPT", &[":5:", "--dport"]),
        ("-A INPUT -j ACEPT", &[":5:", "ACCEPT"]),
        ("-A INPUT -j LOintra", &[":5:", "LOintra"]),
        ("-A INPUT -p udp --syn -j DROP", &[":5:", "--syn"]),
        (
            "-A INPUT -m set --match-set admins src -j ACCEPT",
            &[":5:", "admins"],
        ),
        ("-A INPUT -m zone --src itra -j ACCEPT", &[":5:", "intra"]),
    ];
    play(&script(Mode::Auto), |stage| {
        let before = stage.daemon.ask(&["rules", "save"])?;
        let generation = stage.daemon.json(&["status"])?;
        for (line, words) in BAD {
            for word in ["test", "commit"] {
                stage.write_new(&filter(&[line]))?;
                let mut command = stage.rules(word, &[])?;
                let said = output(&mut command).context("xtproxy")?;
                let cause = String::from_utf8_lossy(&said.stderr).into_owned();
                ensure!(said.status.code() == Some(1), "{line}: {said:?}");
                ensure!(cause.lines().count() == 1, "{line}: {cause}");
                ensure!(cause.contains(NEW), "{line}: {cause}");
                for word in words {
                    ensure!(cause.contains(word), "{line}: no `{word}` in {cause}");
                }
                ensure!(stage.daemon.ask(&["rules", "save"])? == before, "{line}");
                let text = fs::read_to_string(stage.lab.dir().join(CONF))?;
                ensure!(text == open(), "{line}: the file has changed: {text}");
            }
        }
        let after = stage.daemon.json(&["status"])?;
        for key in ["rule_generation", "ruleset"] {
            let same = !after[key].is_null() && after[key] == generation[key];
            ensure!(same, "{key}: {after}");
        }
        Ok(())
    });
}
