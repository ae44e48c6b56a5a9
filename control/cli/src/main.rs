//! `xtproxy`: asks and tells the running daemon.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 usage; or those of the command that it ran.

mod arguments;
mod connect;
mod conversation;
mod document;
mod hold;
mod log;
mod registrations;
mod rules;
mod run;
mod show;
mod signals;

use std::io::{self, Write};
use std::process::ExitCode;

use crate::arguments::Arguments;
use crate::run::Failed;

fn main() -> ExitCode {
    match run::run(Arguments::checked()) {
        // Whoever reads our output has had enough: no failure.
        Err(Failed::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(failed) => {
            // Not by the macro, which panics where the terminal is gone.
            let _ = writeln!(io::stderr(), "xtproxy: {failed}");
            ExitCode::FAILURE
        }
        Ok(code) => code,
    }
}
