//! Zones, services, and who may reach whom.

use std::io::{self, Write};

use protocol::{ZoneMatrix, ZoneReach};

use super::{table, text};

/// Prints the matrix, then what it is made of.
pub(crate) fn zones(out: &mut impl Write, matrix: &ZoneMatrix) -> io::Result<()> {
    if matrix.zones.is_empty() {
        return writeln!(out, "no zones: a proxied connection may go anywhere");
    }
    writeln!(out, "{}\n", reach(&matrix.reach))?;
    let mut zones = table(&[
        "ZONE",
        "PARENT",
        "NETWORKS",
        "INTERFACES",
        "INBOUND",
        "OUTBOUND",
    ]);
    for zone in &matrix.zones {
        let parent = zone.parent.as_deref().unwrap_or("-");
        zones.add_row([
            &zone.name,
            parent,
            &list(&zone.networks),
            &list(&zone.interfaces),
            &services(zone.inbound.as_deref()),
            &services(zone.outbound.as_deref()),
        ]);
    }
    writeln!(out, "{}", text(&zones))?;
    if !matrix.services.is_empty() {
        let mut services = table(&["SERVICE", "PROXY"]);
        for service in &matrix.services {
            services.add_row([&service.name, &service.proxy]);
        }
        writeln!(out, "\n{}", text(&services))?;
    }
    Ok(())
}

/// Clients' zones as rows, servers' as columns, each in the order in which it comes.
fn reach(pairs: &[ZoneReach]) -> String {
    let (mut rows, mut columns) = (Vec::new(), Vec::new());
    for ZoneReach { from, to, .. } in pairs {
        for (names, name) in [(&mut rows, from), (&mut columns, to)] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    let name = |zone: &Option<String>| zone.clone().unwrap_or_else(|| "(no zone)".into());
    let mut headings = vec!["FROM \\ TO".to_owned()];
    headings.extend(columns.iter().map(|column| name(column)));
    let headings: Vec<&str> = headings.iter().map(String::as_str).collect();
    let mut matrix = table(&headings);
    for row in &rows {
        let cell = |column: &&Option<String>| {
            let found = (pairs.iter()).find(|pair| pair.from == **row && pair.to == **column);
            found.map_or_else(|| "?".into(), |pair| list(&pair.services))
        };
        let cells = columns.iter().map(cell);
        matrix.add_row(std::iter::once(name(row)).chain(cells));
    }
    text(&matrix)
}

/// No list at all is another thing than an empty one.
fn services(names: Option<&[String]>) -> String {
    names.map_or_else(|| "*".into(), list)
}

fn list(names: &[String]) -> String {
    if names.is_empty() {
        "-".into()
    } else {
        names.join(",")
    }
}
