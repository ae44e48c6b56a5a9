//! `xtproxy rules`: from a text that people edit to rules in force, and back.

mod folder;
mod generation;
mod keys;
mod loading;
mod progress;
mod trial;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use protocol::{Reply, Request};

use crate::arguments::Rules;
use crate::conversation::{Conversation, SILENCE};
use crate::run::{Failed, unexpected};
use crate::{document, show};

/// Does what the arguments say.
pub(crate) fn run(
    runtime_dir: &Path,
    arguments: Rules,
    json: bool,
    out: &mut impl Write,
) -> Result<ExitCode, Failed> {
    match arguments {
        Rules::Gen(arguments) => generation::run(&arguments, json, out)?,
        Rules::Test(arguments) => return trial::run(runtime_dir, &arguments, json, out),
        Rules::Commit(arguments) => loading::commit(runtime_dir, &arguments, json, out)?,
        Rules::Check(arguments) => loading::check(runtime_dir, &arguments, json, out)?,
        Rules::Show(arguments) => {
            let rules = in_force(runtime_dir, arguments.table.as_deref())?;
            if json {
                document::print(out, &rules)?;
            } else {
                let (numbers, exact) = (arguments.line_numbers, arguments.exact);
                show::rules(out, &rules, numbers, exact)?;
            }
        }
        Rules::Save(arguments) => {
            let rules = in_force(runtime_dir, arguments.table.as_deref())?;
            if json {
                document::print(out, &rules)?;
            } else {
                show::save(out, &rules)?;
            }
        }
        Rules::Explain(arguments) => {
            let packet = arguments.probe();
            let mut daemon = Conversation::open(runtime_dir)?;
            match daemon.ask(Request::RulesExplain { packet })? {
                Reply::Explained(explanation) if json => document::print(out, &explanation)?,
                Reply::Explained(explanation) => show::explanation(out, &explanation)?,
                other => return Err(unexpected(&other)),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The rules in force, or one table of them.
fn in_force(runtime_dir: &Path, table: Option<&str>) -> Result<protocol::Rules, Failed> {
    let mut daemon = Conversation::open(runtime_dir)?;
    daemon.send(Request::RulesShow)?;
    let mut all: Option<protocol::Rules> = None;
    loop {
        let (page, more) = match daemon.await_next(SILENCE)? {
            Reply::Rules { rules, more } => (rules, more),
            other => return Err(unexpected(&other)),
        };
        match &mut all {
            Some(all) => all.append(page),
            None => all = Some(page),
        }
        if !more {
            break;
        }
    }
    let mut all = all.unwrap_or_default();
    if let Some(wanted) = table {
        all.tables.retain(|table| table.name == wanted);
    }
    Ok(all)
}
