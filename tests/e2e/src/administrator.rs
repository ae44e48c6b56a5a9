//! What an administrator does on a stage: rules in files, and `xtproxy rules`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::Program;
use lab::command::{built, output, run};

use crate::Stage;

/// The ruleset in force, in the stage's folder.
pub const CONF: &str = "iptables.conf";
/// The ruleset that is to be tried.
pub const NEW: &str = "iptables.conf.new";

/// A filter table that drops what comes in and lets out what the box sends, but for `lines`.
pub fn filter(lines: &[&str]) -> String {
    let lines = lines.join("\n");
    format!(
        "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n{lines}\nCOMMIT\n"
    )
}

/// A tproxy table with `lines`.
pub fn tproxy(lines: &[&str]) -> String {
    let lines = lines.join("\n");
    format!("*tproxy\n:PREROUTING ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{lines}\nCOMMIT\n")
}

/// The ruleset that `xtproxy rules gen` makes of the files of `from`.
pub fn generated(from: &Path) -> Result<String> {
    let dir = tempfile::tempdir()?;
    for name in ["iptables.conf.in", "iptables.conf.var"] {
        let path = from.join(name);
        fs::copy(&path, dir.path().join(name)).with_context(|| path.display().to_string())?;
    }
    let mut gen_rules = Command::new(built("xtproxy")?);
    run(gen_rules.args(["rules", "gen", "--dir"]).arg(dir.path()))?;
    fs::read_to_string(dir.path().join(NEW)).context("gen wrote nothing")
}

/// The folder of an example of the documentation.
pub fn example(name: &str) -> PathBuf {
    let rooms = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    rooms.join("docs/examples").join(name)
}

impl Stage {
    /// `xtproxy rules WORD --dir FOLDER ARGS`.
    pub fn rules(&self, word: &str, args: &[&str]) -> Result<Command> {
        let mut command = self.daemon.control()?;
        command.args(["rules", word, "--dir"]).arg(self.lab.dir());
        command.args(args);
        Ok(command)
    }

    /// Makes `ruleset` the one that is to be tried.
    pub fn write_new(&self, ruleset: &str) -> Result<()> {
        Ok(fs::write(self.lab.dir().join(NEW), ruleset)?)
    }

    /// Commits `ruleset`.
    pub fn commit(&self, ruleset: &str) -> Result<String> {
        self.write_new(ruleset)?;
        run(&mut self.rules("commit", &[])?)
    }

    /// Commits `ruleset`, whatever comes of it.
    pub fn commit_output(&self, ruleset: &str) -> Result<Output> {
        self.write_new(ruleset)?;
        output(&mut self.rules("commit", &[])?)
    }

    /// Begins to try `ruleset` for so many seconds, and waits until it is in force: it must
    /// have the comment `mark` somewhere, which the one before has not.
    pub fn attempt(&self, ruleset: &str, mark: &str, seconds: u32) -> Result<Program> {
        self.write_new(ruleset)?;
        let timeout = seconds.to_string();
        let command = self.rules("test", &["--timeout", &timeout])?;
        let program = Program::start(self.lab.dir(), "rules-test", command)?;
        self.wait_in_force(mark, true)?;
        Ok(program)
    }

    /// Whether a rule with this comment is in force.
    pub fn is_in_force(&self, mark: &str) -> Result<bool> {
        Ok(self.daemon.ask(&["rules", "save"])?.contains(mark))
    }

    /// Waits until a rule with this comment is in force, or no more.
    pub fn wait_in_force(&self, mark: &str, wanted: bool) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(20);
        while self.is_in_force(mark)? != wanted {
            let now = if wanted { "not in force" } else { "in force" };
            ensure!(Instant::now() < until, "rules with `{mark}` are {now}");
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Waits until the log has a line with all of `words`.
    pub fn wait_logged(&self, words: &[&str]) -> Result<String> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let log = self.daemon.ask(&["log", "--tail", "1000"])?;
            let mut lines = log.lines();
            let line = lines.find(|line| words.iter().all(|word| line.contains(word)));
            if let Some(line) = line {
                return Ok(line.to_owned());
            }
            ensure!(Instant::now() < until, "no line with {words:?} in\n{log}");
            thread::sleep(Duration::from_millis(50));
        }
    }
}
