//! From a command to requests, and from replies to the output.

use std::fmt;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use protocol::{FlowFilter, Reply, Request};
use serde_json::json;
use xtproxy_client::Control;

use crate::arguments::{Arguments, Ask, Command, Flows};
use crate::{connect, document, hold, log, registrations, rules, show};

/// Why a command was not done.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The daemon is not there or refuses.
    Daemon(xtproxy_client::Error),
    /// The output cannot be written.
    Output(io::Error),
    /// Something on this side; the line says what.
    Told(String),
}

impl From<xtproxy_client::Error> for Failed {
    fn from(error: xtproxy_client::Error) -> Self {
        Self::Daemon(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Daemon(error @ xtproxy_client::Error::NoDaemon { .. }) => {
                write!(f, "{error} with --runtime-dir")
            }
            Self::Daemon(error) => error.fmt(f),
            Self::Output(error) => write!(f, "writing the output: {error}"),
            Self::Told(line) => f.write_str(line),
        }
    }
}

/// Does what the arguments say.
pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Failed> {
    let Arguments {
        runtime_dir: dir,
        json,
        command,
    } = arguments;
    let mut out = BufWriter::with_capacity(64 * 1024, io::stdout());
    match command {
        Command::Ask(question) => ask(&dir, question, json, &mut out)?,
        Command::Rules(asked) => {
            let code = rules::run(&dir, asked, json, &mut out)?;
            out.flush()?;
            return Ok(code);
        }
        Command::Log(asked) => log::run(&dir, &asked, json, &mut out)?,
        Command::Registrations(asked) => registrations::run(&dir, &asked, json, &mut out)?,
        // These write on their own, as things happen.
        Command::Listen(listen) => return hold::run(&dir, &listen.into(), json),
        Command::Assign(assign) => return hold::run(&dir, &assign.into(), json),
        Command::Connect(connect) => return connect::run(&dir, &connect),
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Asks, and prints the answer.
fn ask(dir: &Path, question: Ask, json: bool, out: &mut impl Write) -> Result<(), Failed> {
    let mut daemon = Control::connect_to(dir)?;
    match question {
        Ask::Flows(Flows::List(filter)) => {
            list(&mut daemon, out, filter.filter(), json)?;
        }
        Ask::Flows(Flows::Count(filter)) => {
            let request = Request::FlowsCount {
                filter: filter.filter(),
            };
            count(&mut daemon, out, request, json.then_some("count"), "")?;
        }
        Ask::Flows(Flows::Kill(filter)) => {
            let request = Request::FlowsKill {
                filter: filter.filter(),
            };
            count(
                &mut daemon,
                out,
                request,
                json.then_some("killed"),
                " killed",
            )?;
        }
        Ask::Flows(Flows::Flush) => {
            count(
                &mut daemon,
                out,
                Request::FlowsFlush,
                json.then_some("killed"),
                " killed",
            )?;
        }
        Ask::Status => tell(&mut daemon, out, Request::Status, json, false)?,
        Ask::Ports => tell(&mut daemon, out, Request::Ports, json, false)?,
        Ask::Stats { all, examples } => {
            tell(&mut daemon, out, Request::Stats { examples }, json, all)?;
        }
        Ask::Zones(_) => tell(&mut daemon, out, Request::Zones, json, false)?,
    }
    Ok(())
}

/// Asks for what comes whole, and prints it.
fn tell(
    daemon: &mut Control,
    out: &mut impl Write,
    request: Request,
    json: bool,
    all: bool,
) -> Result<(), Failed> {
    match daemon.ask(request)? {
        Reply::Status(status) if json => document::print(out, &status),
        Reply::Status(status) => Ok(show::status(out, &status)?),
        Reply::Ports { ports } if json => document::print(out, &json!({ "ports": ports })),
        Reply::Ports { ports } => Ok(writeln!(out, "{}", show::ports(&ports))?),
        Reply::Stats(stats) if json => document::print(out, &stats),
        Reply::Stats(stats) => Ok(show::stats(out, &stats, all)?),
        Reply::Zones(matrix) if json => document::print(out, &matrix),
        Reply::Zones(matrix) => Ok(show::zones(out, &matrix)?),
        other => Err(unexpected(&other)),
    }
}

fn list(
    daemon: &mut Control,
    out: &mut impl Write,
    filter: FlowFilter,
    json: bool,
) -> Result<(), Failed> {
    if json {
        let mut list = document::FlowList::begin(out)?;
        daemon.flows(filter, |flows| list.put(&flows))?;
        return list.end();
    }
    let mut table = show::FlowTable::default();
    daemon.flows(filter, |flows| table.put(out, &flows).map_err(Failed::from))?;
    Ok(table.end(out)?)
}

/// Asks for a number, and prints it as JSON under a name or in words.
fn count(
    daemon: &mut Control,
    out: &mut impl Write,
    request: Request,
    json_name: Option<&str>,
    what: &str,
) -> Result<(), Failed> {
    let Reply::Count { count } = daemon.ask(request)? else {
        return Err(unexpected(&"another reply"));
    };
    match json_name {
        Some(name) => document::print_number(out, name, count),
        None if count == 1 => Ok(writeln!(out, "1 flow{what}")?),
        None => Ok(writeln!(out, "{count} flows{what}")?),
    }
}

/// A reply to another question.
pub(crate) fn unexpected(reply: &impl fmt::Debug) -> Failed {
    let start: String = format!("{reply:?}").chars().take(40).collect();
    Failed::Daemon(xtproxy_client::Error::Nonsense(start))
}
