//! `xtproxyd`: puts dataplane and control together.

mod attach;
mod bringup;
mod config;
mod daemon;
mod detach;
mod draft;
mod explain;
mod listeners;
mod machine;
mod own_connections;
mod rulebook;
mod ruling;
mod settings;
mod surroundings;
mod told;
mod world;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

/// The transparent-proxy dataplane: takes the configured interfaces, and stays in the
/// foreground until SIGTERM or SIGINT.
///
/// Says `ready` when every port is attached. Log: standard error; RUST_LOG=debug for more.
/// What it changes on the box stays when it ends, so that transit stays closed:
/// `--detach` takes it back.
#[derive(Parser, Debug)]
#[command(
    name = "xtproxyd",
    version,
    after_help = "Examples:
  xtproxyd --config /etc/xtproxy/xtproxyd.toml --check   validate, change nothing
  xtproxyd --config /etc/xtproxy/xtproxyd.toml           run
  xtproxyd --config /etc/xtproxy/xtproxyd.toml --detach  give the box back as it was

Exit codes: 0 done, 1 refused or failed, 2 usage."
)]
struct Arguments {
    /// The configuration (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Validate configuration and ruleset, and exit
    #[arg(long, conflicts_with = "detach")]
    check: bool,
    /// Remove programs, host port and changed settings that a daemon left behind, and exit
    #[arg(long)]
    detach: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    let done = if arguments.check {
        daemon::check(&arguments.config)
    } else if arguments.detach {
        detach::detach(&arguments.config)
    } else {
        daemon::run(&arguments.config)
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtproxyd: {}", one_line(&error));
            ExitCode::FAILURE
        }
    }
}

/// The error and its causes in one line; a cause that its consequence has told is not repeated.
fn one_line(error: &anyhow::Error) -> String {
    let told = error
        .chain()
        .map(ToString::to_string)
        .reduce(|told, cause| {
            if told.contains(&cause) {
                told
            } else {
                format!("{told}: {cause}")
            }
        });
    told.unwrap_or_default().replace('\n', "; ")
}
