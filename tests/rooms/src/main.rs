//! Checks the house: no crate of the workspace may use another unless the table in
//! `docs/architecture.md` says so. Prints the house as a tree.

mod check;
mod table;
mod tree;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use check::{Edge, House};
use table::Table;

/// Where the table stands, from the root of the workspace.
const TABLE: &str = "docs/architecture.md";

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtproxy-rooms: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the house stands as drawn.
fn run() -> Result<bool> {
    let metadata = MetadataCommand::new()
        .no_deps()
        .exec()
        .context("cargo metadata failed; run this inside the workspace")?;
    let root = metadata.workspace_root.as_std_path();
    let path = root.join(TABLE);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    let table = Table::parse(&text).with_context(|| path.display().to_string())?;
    let house = house(&metadata, root);
    print!("{}", tree::draw(&house));
    let wrong = check::check(&house, &table);
    for line in &wrong {
        eprintln!("xtproxy-rooms: {line}");
    }
    Ok(wrong.is_empty())
}

/// The crates of the workspace and what each uses of the others.
fn house(metadata: &Metadata, root: &Path) -> House {
    let room = |path: &Path| {
        path.strip_prefix(root)
            .ok()
            .map(|path| path.to_string_lossy().into_owned())
    };
    let mut rooms = BTreeMap::new();
    for package in metadata.workspace_packages() {
        let Some(name) = package.manifest_path.as_std_path().parent().and_then(room) else {
            continue;
        };
        let edges = package.dependencies.iter().filter_map(|dependency| {
            Some(Edge {
                to: room(dependency.path.as_ref()?.as_std_path())?,
                test_only: dependency.kind == DependencyKind::Development,
            })
        });
        rooms.insert(name, edges.collect());
    }
    House { rooms }
}
