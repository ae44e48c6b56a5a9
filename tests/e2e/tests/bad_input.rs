//! What a daemon cannot work with: one clear line, the right exit code, and a box as before.

use std::fs;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use e2e::RULES;
use lab::command::{built, output};
use lab::daemon::run_daemon;
use lab::{BoxState, Config, Daemon, Lab, Mode, Plan};

/// Refused or failed.
const REFUSED: i32 = 1;
/// Wrong usage.
const USAGE: i32 = 2;

fn lab() -> Lab {
    let plan = Plan {
        idle: true,
        ..Plan::default()
    };
    Lab::build(&plan).unwrap_or_else(|error| panic!("{error:#}"))
}

/// One line on stderr, that begins with the program and names all of `words`.
fn one_line(output: &Output, code: i32, words: &[&str]) -> Result<String> {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(code),
        "{}: {said}",
        output.status
    );
    ensure!(said.lines().count() == 1, "not one line:\n{said}");
    ensure!(said.starts_with("xtproxyd: "), "who says so? {said}");
    for word in words {
        ensure!(said.contains(word), "`{word}` is not in: {said}");
    }
    ensure!(output.stdout.is_empty(), "it talks on stdout, too");
    Ok(said)
}

/// Runs the daemon with what `spoil` makes of the usual files; returns its one line.
fn refused(words: &[&str], spoil: impl FnOnce(String, String) -> (String, String)) {
    let act = || -> Result<()> {
        let lab = lab();
        let path = Config::new(Mode::Auto, RULES).write(&lab)?;
        let rules = lab.dir().join("iptables.conf");
        let (config, ruleset) = spoil(fs::read_to_string(&path)?, fs::read_to_string(&rules)?);
        fs::write(&path, config)?;
        fs::write(&rules, ruleset)?;
        let before = BoxState::read(&lab.fw)?;
        let line = one_line(&run_daemon(&lab, &path, &[])?, REFUSED, words)?;
        before.check_same(&BoxState::read(&lab.fw)?).context(line)
    };
    act().unwrap_or_else(|error| panic!("{error:#}"));
}

fn refused_config(words: &[&str], spoil: impl FnOnce(String) -> String) {
    refused(words, |config, rules| (spoil(config), rules));
}

fn refused_rules(words: &[&str], rules: &str) {
    refused(words, |config, _| (config, rules.to_owned()));
}

#[test]
fn unknown_interface() {
    refused_config(&["eth9"], |text| text.replace("\"eth2\"", "\"eth9\""));
}

#[test]
fn port_given_twice() {
    refused_config(&["eth1", "twice", "xtproxyd.toml:"], |text| {
        text.replace("\"eth2\"", "\"eth1\"")
    });
}

#[test]
fn config_is_no_toml() {
    refused_config(&["xtproxyd.toml:1:"], |text| {
        format!("this is = = no toml\n{text}")
    });
}

#[test]
fn config_has_an_unknown_key() {
    refused_config(
        &["xtproxyd.toml:1:", "runtime_dirr", "runtime_dir"],
        |text| text.replace("runtime_dir", "runtime_dirr"),
    );
}

#[test]
fn config_has_a_wrong_value() {
    refused_config(&["xtproxyd.toml:", "fast"], |text| {
        text.replace("\"auto\"", "\"fast\"")
    });
}

#[test]
fn zone_is_unknown() {
    refused_config(&["xtproxyd.toml:", "outer"], |text| {
        text.replace("zone = \"inter\"", "zone = \"outer\"")
    });
}

#[test]
fn config_is_not_there() {
    let act = || -> Result<()> {
        let lab = lab();
        let path = lab.dir().join("nowhere.toml");
        let output = run_daemon(&lab, &path, &[])?;
        one_line(&output, REFUSED, &["nowhere.toml"]).map(drop)
    };
    act().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn ruleset_is_not_there() {
    refused_config(&["missing.conf"], |text| {
        text.replace("iptables.conf", "missing.conf")
    });
}

#[test]
fn ruleset_has_an_unknown_option() {
    refused_rules(
        &["iptables.conf:3:15: ", "--dporrt", "--dport"],
        "*tproxy\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING --dporrt 80 -j TPROXY\nCOMMIT\n",
    );
}

#[test]
fn ruleset_jumps_nowhere() {
    refused_rules(
        &["iptables.conf:3:", "PRintra"],
        "*tproxy\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -i eth1 -j PRintra\nCOMMIT\n",
    );
}

#[test]
fn ruleset_has_no_commit() {
    refused_rules(
        &["iptables.conf:", "COMMIT"],
        "*tproxy\n:PREROUTING ACCEPT [0:0]\n",
    );
}

#[test]
fn ruleset_redirects_to_loopback() {
    refused_rules(
        &["iptables.conf:3:", "127.0.0.1"],
        "*tproxy\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp --dport 80 -j TPROXY --on-port 1 --on-ip 127.0.0.1\nCOMMIT\n",
    );
}

/// What always passes is never looked up: a proxy's answers would leave untranslated.
#[test]
fn management_covers_a_proxy() {
    refused_config(&["management", "50080", "--on-port"], |text| {
        format!(
            "{text}\n[[management]]\nnetworks = [\"192.168.1.0/24\"]\nproto = \"tcp\"\nport = 50080\n"
        )
    });
}

#[test]
fn zerocopy_on_a_card_without_it() {
    refused_config(&["eth1", "zerocopy"], |text| {
        text.replace("\"auto\"", "\"zerocopy\"")
    });
}

#[test]
fn wrong_usage() {
    let act = || -> Result<()> {
        for args in [
            &["--confg", "x"][..],
            &["--config"],
            &["--config", "x", "--check", "--detach"],
        ] {
            let mut command = Command::new(built("xtproxyd")?);
            let output = output(command.args(args))?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(
                output.status.code() == Some(USAGE),
                "{args:?}: {}: {said}",
                output.status
            );
        }
        Ok(())
    };
    act().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn no_privilege() {
    let act = || -> Result<()> {
        let lab = lab();
        let config = Config::new(Mode::Auto, RULES).write(&lab)?;
        // The build folder may be root's alone.
        let program = lab.dir().join("xtproxyd");
        fs::copy(built("xtproxyd")?, &program)?;
        let before = BoxState::read(&lab.fw)?;
        let mut command = lab.fw.command("setpriv");
        command.args([
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "--inh-caps=-all",
        ]);
        command.arg(&program).arg("--config").arg(&config);
        one_line(&output(&mut command)?, REFUSED, &["root"])?;
        before.check_same(&BoxState::read(&lab.fw)?)
    };
    act().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn kernel_without_af_xdp() {
    let act = || -> Result<()> {
        let lab = lab();
        let config = Config::new(Mode::Auto, RULES).write(&lab)?;
        let before = BoxState::read(&lab.fw)?;
        let mut command = lab.fw.command(built("lab-without")?);
        command
            .arg("xdp")
            .arg(built("xtproxyd")?)
            .arg("--config")
            .arg(&config);
        let line = one_line(&output(&mut command)?, REFUSED, &["AF_XDP", "kernel"])?;
        before.check_same(&BoxState::read(&lab.fw)?).context(line)
    };
    act().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn second_daemon_on_one_folder() {
    let act = || -> Result<()> {
        let lab = lab();
        let mut first = Daemon::start(&lab, &Config::new(Mode::Auto, RULES))?;
        let pid = first.program().pid().context("no daemon")?.to_string();
        let before = BoxState::read(&lab.fw)?;
        let second = run_daemon(&lab, first.config(), &[])?;
        let folder = lab::daemon::runtime_dir(&lab).display().to_string();
        one_line(&second, REFUSED, &[&folder, &pid])?;
        // The first one's work is untouched.
        before.check_same(&BoxState::read(&lab.fw)?)?;
        first.check_alive()?;
        first.json(&["status"])?;
        first.check_frames()
    };
    act().unwrap_or_else(|error| panic!("{error:#}"));
}

#[test]
fn control_without_a_daemon() {
    let act = || -> Result<()> {
        let lab = lab();
        let folder = lab::daemon::runtime_dir(&lab);
        let mut command = Command::new(built("xtproxy")?);
        let output = output(command.arg("--runtime-dir").arg(&folder).arg("status"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.code() == Some(REFUSED),
            "{}: {said}",
            output.status
        );
        ensure!(
            said.lines().count() == 1 && said.contains("control.sock"),
            "{said}"
        );
        Ok(())
    };
    act().unwrap_or_else(|error| panic!("{error:#}"));
}
