//! `xtproxy`: asks and tells the running daemon.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 usage; or those of the command that it ran.

mod arguments;
mod connect;
mod document;
mod hold;
mod registrations;
mod run;
mod show;
mod signals;

use std::io;
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
            eprintln!("xtproxy: {failed}");
            ExitCode::FAILURE
        }
        Ok(code) => code,
    }
}
