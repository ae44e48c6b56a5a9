//! The table of rooms, read from the architecture page.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};

/// What a room may use directly.
pub type Uses = BTreeSet<String>;

/// The table: each room, by its folder, and the folders that it may use.
#[derive(Debug)]
pub struct Table {
    /// Rooms with a row of their own.
    pub rooms: BTreeMap<String, Uses>,
    /// Folders (`tests/*`, `bench`) whose crates may use anything and that nothing may use.
    pub outside: Vec<String>,
}

impl Table {
    /// Reads the first table whose heading is `room | job | uses`.
    pub fn parse(page: &str) -> Result<Self> {
        let mut rows = page
            .lines()
            .skip_while(|line| cells(line) != ["room", "job", "uses"])
            .skip(2)
            .take_while(|line| line.starts_with('|'))
            .peekable();
        ensure!(
            rows.peek().is_some(),
            "no table with the heading `| room | job | uses |`"
        );
        let mut table = Table {
            rooms: BTreeMap::new(),
            outside: Vec::new(),
        };
        for row in rows {
            let [names, _, uses] = cells(row)[..] else {
                bail!("a row needs three cells: {row}");
            };
            if uses.starts_with("anything") {
                table.outside.extend(words(names));
                continue;
            }
            let uses = table.resolve(uses)?;
            for name in words(names) {
                ensure!(
                    table.rooms.insert(name.clone(), uses.clone()).is_none(),
                    "two rows for {name}"
                );
            }
        }
        Ok(table)
    }

    /// Whether `room` lies in a folder that the table puts outside of the house.
    pub fn is_outside(&self, room: &str) -> bool {
        self.outside
            .iter()
            .any(|folder| match folder.strip_suffix("/*") {
                Some(folder) => room
                    .strip_prefix(folder)
                    .is_some_and(|r| r.starts_with('/')),
                None => {
                    room == folder
                        || room
                            .strip_prefix(folder.as_str())
                            .is_some_and(|r| r.starts_with('/'))
                }
            })
    }

    /// All that `room` may reach by way of the rooms that it may use.
    pub fn below(&self, room: &str) -> Uses {
        let mut found = Uses::new();
        let mut open: Vec<&str> = vec![room];
        while let Some(next) = open.pop() {
            for used in self.rooms.get(next).into_iter().flatten() {
                if found.insert(used.clone()) {
                    open.push(used);
                }
            }
        }
        found
    }

    /// The folders that a `uses` cell names; only rows above may be named.
    fn resolve(&self, cell: &str) -> Result<Uses> {
        if cell == "-" {
            return Ok(Uses::new());
        }
        if let Some(rest) = cell.strip_prefix("all of the above") {
            let except = rest.trim().strip_prefix("but").unwrap_or_default();
            let except = self.named(&except.replace(" and ", ", "))?;
            let all = self.rooms.keys().cloned().collect::<Uses>();
            return Ok(all.difference(&except).cloned().collect());
        }
        self.named(cell)
    }

    /// The folders of a list of short names.
    fn named(&self, list: &str) -> Result<Uses> {
        words(list)
            .into_iter()
            .map(|word| {
                let found = self
                    .rooms
                    .keys()
                    .find(|room| room.rsplit('/').next() == Some(word.as_str()));
                match found {
                    Some(room) => Ok(room.clone()),
                    None => bail!("`{word}` is used but has no row above its user"),
                }
            })
            .collect()
    }
}

/// The cells of a row, trimmed.
fn cells(line: &str) -> Vec<&str> {
    line.trim()
        .trim_matches('|')
        .split('|')
        .map(str::trim)
        .collect()
}

/// The words of a comma list, without back quotes.
fn words(cell: &str) -> Vec<String> {
    cell.split(',')
        .map(|word| word.trim().trim_matches('`').to_owned())
        .filter(|word| !word.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# A page\n\n| room | job | uses |\n|---|---|---|\n\
        | `a/wire` | x | - |\n| `a/tables` | x | wire |\n| `b/client` | x | - |\n\
        | `b/daemon` | x | all of the above but client |\n\
        | `tests/*`, `bench` | x | anything; nothing uses them |\n\nmore\n";

    fn set(names: &[&str]) -> Uses {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn reads_rows_lists_and_exceptions() {
        let table = Table::parse(PAGE).unwrap();
        assert_eq!(table.rooms["a/wire"], set(&[]));
        assert_eq!(table.rooms["a/tables"], set(&["a/wire"]));
        assert_eq!(table.rooms["b/daemon"], set(&["a/wire", "a/tables"]));
        assert_eq!(table.below("b/daemon"), set(&["a/wire", "a/tables"]));
        assert!(table.is_outside("tests/lab") && table.is_outside("bench"));
        assert!(!table.is_outside("a/wire") && !table.is_outside("testsuite"));
    }

    #[test]
    fn refuses_what_it_cannot_read() {
        assert!(Table::parse("no table").is_err());
        let unknown = PAGE.replace("| wire |", "| wires |");
        let message = Table::parse(&unknown).unwrap_err().to_string();
        assert!(message.contains("`wires`"), "{message}");
        let twice = PAGE.replace("`b/client`", "`a/wire`");
        assert!(Table::parse(&twice).is_err());
    }
}
