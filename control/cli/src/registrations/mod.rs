//! `xtproxy registrations`: asks for them, and gives users their names.

mod listing;
mod watch;

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use nix::unistd::{Uid, User};
use protocol::Registration;
use serde_json::json;

use crate::arguments::{RegistrationFilter, Registrations};
use crate::run::Failed;
use crate::{document, show};

/// Does what the arguments say.
pub(crate) fn run(
    runtime_dir: &Path,
    arguments: &Registrations,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failed> {
    if arguments.watch {
        return watch::run(runtime_dir, arguments, json, out);
    }
    let rows = Source::new(runtime_dir, &arguments.filter).rows()?;
    if json {
        document::print(out, &json!({ "registrations": rows }))
    } else {
        Ok(show::registrations(out, &rows)?)
    }
}

/// Where registrations come from.
struct Source<'a> {
    runtime_dir: &'a Path,
    filter: &'a RegistrationFilter,
    /// Names of users that were asked for already.
    users: HashMap<u32, Option<String>>,
}

impl<'a> Source<'a> {
    fn new(runtime_dir: &'a Path, filter: &'a RegistrationFilter) -> Self {
        Self {
            runtime_dir,
            filter,
            users: HashMap::new(),
        }
    }

    /// Those that match, in a stable order.
    fn rows(&mut self) -> Result<Vec<Registration>, Failed> {
        let mut rows = listing::all(self.runtime_dir)?;
        rows.retain(|row| self.filter.matches(row));
        for row in &mut rows {
            row.user = self.user(row.uid);
        }
        rows.sort_by_key(|row| (row.proto.clone(), row.foreign, row.local, row.peer));
        Ok(rows)
    }

    fn user(&mut self, uid: u32) -> Option<String> {
        let asked = || User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let name = self.users.entry(uid);
        name.or_insert_with(|| asked().map(|user| user.name))
            .clone()
    }
}
