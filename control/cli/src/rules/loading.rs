//! Rulesets that the daemon is to load or check.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use protocol::{Reply, Request, RulesLoaded};
use serde_json::json;

use super::folder::{Folder, sets_beside, told};
use super::progress::Progress;
use crate::arguments::{Check, Commit};
use crate::conversation::Conversation;
use crate::document;
use crate::run::{Failed, unexpected};

/// How long the daemon may be silent over a ruleset.
const THINKING: Duration = Duration::from_secs(300);

/// Has `ruleset` loaded: for good, or on trial for so long.
pub(super) fn load(
    daemon: &mut Conversation,
    ruleset: &Path,
    trial: Option<Duration>,
    replace: Option<&Path>,
) -> Result<RulesLoaded, Failed> {
    let sets = sets_beside(ruleset);
    let request = Request::RulesLoad {
        ruleset: told(ruleset)?,
        sets: sets.as_deref().map(told).transpose()?,
        try_ms: trial.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        replace: replace.map(told).transpose()?,
    };
    match answer(daemon, request)? {
        Reply::RulesLoaded(loaded) => Ok(loaded),
        other => Err(unexpected(&other)),
    }
}

/// The answer that comes after lines of progress.
fn answer(daemon: &mut Conversation, request: Request) -> Result<Reply, Failed> {
    daemon.send(request)?;
    let progress = Progress::new();
    loop {
        match daemon.await_next(THINKING)? {
            Reply::Progress { stage, done, total } => progress.show(&stage, done, total),
            reply => return Ok(reply),
        }
    }
}

/// `xtproxy rules commit`.
pub(super) fn commit(
    runtime_dir: &Path,
    arguments: &Commit,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failed> {
    let folder = Folder::open(&arguments.dir.dir)?;
    let (made, current) = (folder.made_already()?, folder.current());
    let mut daemon = Conversation::open(runtime_dir)?;
    let loaded = load(&mut daemon, &made, None, Some(&current))?;
    let mut warnings = loaded.warnings.clone();
    warnings.extend(folder.staleness());
    warnings.extend(other_at_start(&mut daemon, &current)?);
    tell_warnings(&warnings, loaded.warnings_left);
    if json {
        return document::print(out, &json!({ "ruleset": current, "loaded": loaded }));
    }
    let what = rules(loaded.rules);
    let generation = loaded.generation;
    Ok(writeln!(
        out,
        "{}: {what} in force, generation {generation}",
        current.display()
    )?)
}

/// What is to be said if the daemon begins with another ruleset than the one committed.
fn other_at_start(daemon: &mut Conversation, current: &Path) -> Result<Option<String>, Failed> {
    let Reply::Status(status) = daemon.ask(Request::Status)? else {
        return Err(Failed::Told("the daemon does not tell its status".into()));
    };
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    Ok(match &status.ruleset {
        Some(begun) if real(Path::new(begun)) == real(current) => None,
        Some(begun) => Some(format!(
            "at its next start the daemon loads {begun}; to have it load this one, set \
             ruleset = \"{}\" in {}",
            current.display(),
            status.config
        )),
        None => Some(format!(
            "at its next start the daemon loads no ruleset; to have it load this one, set \
             ruleset = \"{}\" in {}",
            current.display(),
            status.config
        )),
    })
}

/// `xtproxy rules check`.
pub(super) fn check(
    runtime_dir: &Path,
    arguments: &Check,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failed> {
    let file = match &arguments.file {
        Some(file) => absolute(file)?,
        None => Folder::open(&arguments.dir.dir)?.made_already()?,
    };
    let sets = sets_beside(&file);
    let request = Request::RulesCheck {
        ruleset: told(&file)?,
        sets: sets.as_deref().map(told).transpose()?,
    };
    let mut daemon = Conversation::open(runtime_dir)?;
    let checked = match answer(&mut daemon, request)? {
        Reply::RulesChecked(checked) => checked,
        other => return Err(unexpected(&other)),
    };
    tell_warnings(&checked.warnings, checked.warnings_left);
    if json {
        return document::print(out, &json!({ "ruleset": file, "checked": checked }));
    }
    let what = rules(checked.rules);
    Ok(writeln!(
        out,
        "{}: {what}, nothing wrong; not loaded",
        file.display()
    )?)
}

fn absolute(file: &Path) -> Result<PathBuf, Failed> {
    std::path::absolute(file).map_err(|e| Failed::Told(format!("{}: {e}", file.display())))
}

/// Warnings, on the error output so that they do not end in a file.
pub(super) fn tell_warnings(warnings: &[String], left: u64) {
    for warning in warnings {
        let plain: String = (warning.chars())
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        tell(&format!("warning: {plain}"));
    }
    if left > 0 {
        tell(&format!("warning: and {left} more warnings"));
    }
}

/// A line on the error output. Not by the macro, which panics where the terminal is gone.
pub(super) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "xtproxy: {line}");
}

/// A number of rules in words.
pub(super) fn rules(count: u64) -> String {
    match count {
        1 => "1 rule".into(),
        _ => format!("{count} rules"),
    }
}
