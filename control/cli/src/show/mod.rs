//! Tables for people.

pub(crate) mod difference;
mod flows;
mod machine;
mod registrations;
mod rules;
mod stats;
mod words;
mod zones;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};

pub(crate) use flows::FlowTable;
pub(crate) use machine::{ports, status};
pub(crate) use registrations::{registration, registrations};
pub(crate) use rules::{explanation, rules, save};
pub(crate) use stats::stats;
pub(crate) use zones::zones;

/// A table without lines. A heading that begins with `>` is that of a column of numbers.
fn table(headings: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(
        headings
            .iter()
            .map(|heading| heading.trim_start_matches('>')),
    );
    for (column, heading) in table.column_iter_mut().zip(headings) {
        column.set_padding((0, 2));
        if heading.starts_with('>') {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// Its text, without blanks at the ends of lines.
fn text(table: &Table) -> String {
    table.trim_fmt()
}
