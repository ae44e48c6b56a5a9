//! Compares the house as it is with the house as drawn.

use std::collections::BTreeMap;

use crate::table::Table;

/// What test code may use besides the rooms below: the lab.
const LAB: &str = "tests/lab";

/// One use of a room by another.
#[derive(Debug)]
pub struct Edge {
    /// Folder of the room that is used.
    pub to: String,
    /// Whether only tests and examples use it.
    pub test_only: bool,
}

/// The house as it is: folders and what they use.
#[derive(Debug)]
pub struct House {
    /// Edges by the folder that they start from.
    pub rooms: BTreeMap<String, Vec<Edge>>,
}

/// One line for each thing that is not as the table says.
pub fn check(house: &House, table: &Table) -> Vec<String> {
    let mut wrong = Vec::new();
    for room in table
        .rooms
        .keys()
        .filter(|room| !house.rooms.contains_key(*room))
    {
        wrong.push(format!("{room} has a row but no crate: remove the row"));
    }
    for (room, edges) in &house.rooms {
        if table.is_outside(room) {
            continue;
        }
        let Some(uses) = table.rooms.get(room) else {
            wrong.push(format!("{room} has no row: say what it is and may use"));
            continue;
        };
        let below = table.below(room);
        for Edge { to, test_only } in edges {
            let fine = if *test_only {
                below.contains(to) || to == LAB || to == room
            } else {
                uses.contains(to)
            };
            if !fine {
                let kind = if *test_only { " (in tests)" } else { "" };
                wrong.push(format!("{room} -> {to}{kind} is no arrow of the table"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "| room | job | uses |\n|---|---|---|\n\
        | `a/wire` | x | - |\n| `a/tables` | x | wire |\n| `a/pipeline` | x | tables |\n\
        | `tests/*`, `bench` | x | anything |\n";

    fn edge(to: &str, test_only: bool) -> Edge {
        Edge {
            to: to.into(),
            test_only,
        }
    }

    fn house(extra: &str, edges: Vec<Edge>) -> House {
        let mut rooms = BTreeMap::new();
        rooms.insert("a/wire".into(), vec![]);
        rooms.insert("a/tables".into(), vec![edge("a/wire", false)]);
        rooms.insert("a/pipeline".into(), vec![edge("a/tables", false)]);
        rooms.insert("tests/lab".into(), vec![edge("a/pipeline", false)]);
        rooms.entry(extra.into()).or_default().extend(edges);
        House { rooms }
    }

    fn verdict(extra: &str, edges: Vec<Edge>) -> Vec<String> {
        check(&house(extra, edges), &Table::parse(PAGE).unwrap())
    }

    #[test]
    fn accepts_the_house_as_drawn() {
        assert_eq!(verdict("a/wire", vec![]), Vec::<String>::new());
    }

    #[test]
    fn refuses_an_arrow_upwards() {
        let wrong = verdict("a/wire", vec![edge("a/tables", false)]);
        assert_eq!(wrong, ["a/wire -> a/tables is no arrow of the table"]);
    }

    #[test]
    fn refuses_a_shortcut_that_has_no_arrow() {
        assert_eq!(verdict("a/pipeline", vec![edge("a/wire", false)]).len(), 1);
        assert_eq!(verdict("a/pipeline", vec![edge("a/wire", true)]).len(), 0);
    }

    #[test]
    fn lets_tests_use_the_lab_and_rooms_below_only() {
        assert_eq!(verdict("a/wire", vec![edge("tests/lab", true)]).len(), 0);
        assert_eq!(verdict("a/wire", vec![edge("tests/lab", false)]).len(), 1);
        assert_eq!(verdict("a/wire", vec![edge("a/tables", true)]).len(), 1);
    }

    #[test]
    fn wants_a_row_for_each_room_and_a_room_for_each_row() {
        assert_eq!(verdict("a/new", vec![]).len(), 1);
        let table = Table::parse(&PAGE.replace("| `tests", "| `a/gone` | x | - |\n| `tests"));
        assert_eq!(check(&house("a/wire", vec![]), &table.unwrap()).len(), 1);
    }
}
