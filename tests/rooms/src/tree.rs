//! The house as text: folders, rooms, arrows.

use std::fmt::Write;

use crate::check::House;

/// One line per room, under its folder, with what it uses.
pub fn draw(house: &House) -> String {
    let mut out = String::new();
    let mut last = "";
    for (room, edges) in &house.rooms {
        let (folder, name) = room.split_once('/').unwrap_or(("", room));
        if !folder.is_empty() && folder != last {
            let _ = writeln!(out, "{folder}/");
        }
        last = folder;
        let used: Vec<&str> = edges
            .iter()
            .filter(|edge| !edge.test_only)
            .map(|edge| edge.to.rsplit('/').next().unwrap_or(&edge.to))
            .collect();
        let indent = if folder.is_empty() { "" } else { "  " };
        let _ = match used.as_slice() {
            [] => writeln!(out, "{indent}{name}"),
            used => writeln!(out, "{indent}{name:<10} -> {}", used.join(", ")),
        };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Edge;

    #[test]
    fn draws_rooms_under_their_folders() {
        let edge = Edge {
            to: "a/wire".into(),
            test_only: false,
        };
        let rooms = [
            ("a/tables".to_owned(), vec![edge]),
            ("a/wire".to_owned(), vec![]),
            ("xdp".to_owned(), vec![]),
        ];
        let house = House {
            rooms: rooms.into(),
        };
        assert_eq!(draw(&house), "a/\n  tables     -> wire\n  wire\nxdp\n");
    }
}
