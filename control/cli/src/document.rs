//! One JSON document on the output.

use std::io::{self, Write};

use protocol::Flow;
use serde_json::json;

use crate::run::Failed;

/// Prints a value as it is.
pub(crate) fn print(out: &mut impl Write, value: &impl serde::Serialize) -> Result<(), Failed> {
    serde_json::to_writer_pretty(&mut *out, value).map_err(io::Error::from)?;
    Ok(writeln!(out)?)
}

/// Prints a number under a name.
pub(crate) fn print_number(out: &mut impl Write, name: &str, value: u64) -> Result<(), Failed> {
    print(out, &json!({ name: value }))
}

/// Prints flows as they come, so that the longest list needs no memory.
pub(crate) struct FlowList<'a, W: Write> {
    out: &'a mut W,
    is_first: bool,
}

impl<'a, W: Write> FlowList<'a, W> {
    pub(crate) fn begin(out: &'a mut W) -> Result<Self, Failed> {
        write!(out, "{{\"flows\": [")?;
        Ok(Self {
            out,
            is_first: true,
        })
    }

    pub(crate) fn put(&mut self, flows: &[Flow]) -> Result<(), Failed> {
        for flow in flows {
            self.out
                .write_all(if self.is_first { b"\n" } else { b",\n" })?;
            self.is_first = false;
            serde_json::to_writer(&mut *self.out, flow).map_err(io::Error::from)?;
        }
        Ok(())
    }

    pub(crate) fn end(self) -> Result<(), Failed> {
        Ok(writeln!(self.out, "\n]}}")?)
    }
}
