//! What comes of a text, against examples and a naive model.

use macros::{Expansion, MAX_LINES, Macros, Trace};
use proptest::prelude::*;

fn expanded(definitions: &str, text: &str) -> Expansion {
    let macros = Macros::parse("conf.var", definitions).unwrap();
    macros.expand("conf.in", text).unwrap()
}

fn text(definitions: &str, text: &str) -> String {
    expanded(definitions, text).text
}

#[test]
fn a_rule_for_each_word() {
    let rule = "-A INPUT -p tcp -m tcp -s SSH_PERMITTED --dport 22 -j ACCEPT";
    assert_eq!(
        text("#define SSH_PERMITTED 1.2.3.4 1.2.3.5", rule),
        "-A INPUT -p tcp -m tcp -s 1.2.3.4 --dport 22 -j ACCEPT\n\
         -A INPUT -p tcp -m tcp -s 1.2.3.5 --dport 22 -j ACCEPT\n"
    );
}

#[test]
fn a_rule_for_each_combination_and_the_last_varies_fastest() {
    let macros = "#define A 1 2\n#define B x y";
    assert_eq!(
        text(macros, "-s A -d B"),
        "-s 1 -d x\n-s 1 -d y\n-s 2 -d x\n-s 2 -d y\n"
    );
    assert_eq!(
        text(macros, "-s B -d A -i B"),
        "-s x -d 1 -i x\n-s x -d 2 -i x\n-s y -d 1 -i y\n-s y -d 2 -i y\n"
    );
}

#[test]
fn definitions_in_all_their_forms() {
    let definitions = "\u{feff}# comment \\\n\n  #define A 1 \\\n\t2 # two \\\n 3\r\n#define B\tA 4\\\n\n\
        #------\n##define C 9\n#old\n#define _c9 \"a # b\"x A/B\n";
    assert_eq!(text(definitions, "A"), "1\n2\n3\n");
    assert_eq!(text(definitions, "B"), "1\n2\n3\n4\n");
    let nested = text(definitions, "_c9");
    assert!(
        nested.starts_with("\"a # b\"x\n1/1\n1/2\n1/3\n1/4\n2/1\n"),
        "{nested}"
    );
    assert_eq!(nested.lines().count(), 13);
    assert_eq!(text(definitions, "C"), "C\n");
}

#[test]
fn order_of_definitions_does_not_matter() {
    let late = "#define A B c\n#define B a b";
    assert_eq!(text(late, "A"), "a\nb\nc\n");
}

#[test]
fn names_that_mean_something_are_warned_of() {
    let macros = Macros::parse(
        "conf.var",
        "#define tcp udp\n#define tcps 1\n #define DROP x",
    );
    let told = macros.unwrap().named_as(&["tcp", "DROP", "ACCEPT"]);
    let told: Vec<String> = told.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 2);
    assert!(told[0].starts_with("conf.var:1:9: `tcp` is a word of rules"));
    assert!(told[1].starts_with("conf.var:3:10: `DROP` is a word of rules"));
}

#[test]
fn only_rules_are_expanded() {
    let lines = "# A\n*A\n:A ACCEPT [0:0]\n  COMMIT\n\nCOMMIT";
    let macros = "#define A 1 2\n#define COMMIT 7";
    assert_eq!(text(macros, lines), format!("{lines}\n"));
    let rule = "[3:4] -A A -m comment --comment \"A \\\" A\" -j LOG --log-prefix \"A\"";
    assert_eq!(
        text(macros, rule),
        "[3:4] -A 1 -m comment --comment \"A \\\" A\" -j LOG --log-prefix \"A\"\n\
         [3:4] -A 2 -m comment --comment \"A \\\" A\" -j LOG --log-prefix \"A\"\n"
    );
    assert_eq!(
        text(macros, "-s UNKNOWN -j ADROP\r\n"),
        "-s UNKNOWN -j ADROP\n"
    );
}

#[test]
fn what_is_probably_not_meant_is_told() {
    let definitions = "#define NONE\n#define NETS a b\n#define ONE a\n#define INNER 1\n\
        #define OUTER INNER\n#define LONE OUTER";
    let lines = "-s NONE\n-s ! NETS\n! -s NETS\n-s !NETS\n! -s ONE -d NETS\n# NETS\n\
        #define LATE a\n-j OUTER";
    let expansion = expanded(definitions, lines);
    let told: Vec<String> = expansion.warnings.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!("warnings", told.join("\n"));
    assert!(!expansion.text.contains("NONE"));
}

#[test]
fn a_place_is_found_again() {
    let definitions = "#define NET 10.0.0.0/8 é";
    let macros = Macros::parse("v", definitions).unwrap();
    let source = "# c\n-s NET -d ö NET -j X\n-j Y";
    let expansion = macros.expand("i", source).unwrap();
    assert_eq!(expansion.origins, [1, 2, 2, 3]);
    let at = |line, column| macros.trace(source, &expansion, line, column);
    let found = |line, column, name: Option<&str>| {
        Some(Trace {
            line,
            column,
            name: name.map(str::to_owned),
            has_macros: line == 2,
        })
    };
    // -s 10.0.0.0/8 -d ö 10.0.0.0/8 -j X
    assert_eq!(at(2, 3), found(2, 3, None));
    assert_eq!(at(2, 4), found(2, 4, Some("NET")));
    assert_eq!(at(2, 13), found(2, 4, Some("NET")));
    assert_eq!(at(2, 14), found(2, 7, None));
    assert_eq!(at(2, 18), found(2, 11, None));
    assert_eq!(at(2, 34), found(2, 20, None));
    // -s é -d ö é -j X
    assert_eq!(at(3, 11), found(2, 13, Some("NET")));
    assert_eq!(at(3, 16), found(2, 20, None));
    assert_eq!(at(3, 99), found(2, 21, None));
    assert_eq!(at(4, 4), found(3, 4, None));
    for (line, column) in [(0, 1), (5, 1), (1, 0), (u32::MAX, 1)] {
        assert_eq!(at(line, column), None);
    }
}

#[test]
fn as_many_lines_as_are_allowed() {
    let thousand: Vec<String> = (0..1000).map(|n| n.to_string()).collect();
    let definitions = format!("#define A {0}\n#define B {0}", thousand.join(" "));
    let macros = Macros::parse("v", &definitions).unwrap();
    let expansion = macros.expand("i", "A B").unwrap();
    assert_eq!(expansion.text.lines().count(), MAX_LINES);
    assert!(macros.expand("i", "A B\nA").is_err());
    assert!(macros.expand("i", "A B\n").is_ok());
}

/// A model that cuts words at blanks only and knows neither quotes nor nesting.
fn naive(definitions: &[(String, Vec<String>)], line: &[String]) -> Vec<Vec<String>> {
    let mut order: Vec<&(String, Vec<String>)> = Vec::new();
    for word in line {
        let found = definitions.iter().find(|(name, _)| name == word);
        if let Some(found) = found.filter(|found| !order.iter().any(|have| have.0 == found.0)) {
            order.push(found);
        }
    }
    let mut lines = vec![line.to_vec()];
    for (name, words) in order {
        let replace = |line: &Vec<String>| -> Vec<Vec<String>> {
            let one = |value: &String| {
                let put = |word: &String| if word == name { value } else { word }.clone();
                line.iter().map(put).collect()
            };
            words.iter().map(one).collect()
        };
        lines = lines.iter().flat_map(replace).collect();
    }
    lines
}

prop_compose! {
    fn definitions()(
        sizes in prop::collection::vec(0..4_usize, 1..4)
    ) -> Vec<(String, Vec<String>)> {
        let names = ["A", "BE", "C_3"];
        let words = |(at, size): (usize, usize)| {
            let values = (0..size).map(|n| format!("v{at}{n}")).collect();
            (names[at].to_owned(), values)
        };
        sizes.into_iter().enumerate().map(words).collect()
    }
}

proptest! {
    #[test]
    fn lines_are_those_of_the_model(
        definitions in definitions(),
        line in prop::collection::vec("A|BE|C_3|D|-s|AB|-A|1", 1..7),
    ) {
        let written: String = definitions.iter()
            .map(|(name, words)| format!("#define {name} {}\n", words.join(" ")))
            .collect();
        let expansion = expanded(&written, &line.join(" "));
        let lines: Vec<Vec<String>> = expansion.text.lines()
            .map(|line| line.split(' ').map(str::to_owned).collect())
            .collect();
        prop_assert_eq!(lines, naive(&definitions, &line));
    }

    #[test]
    fn a_text_without_macros_is_itself(lines in prop::collection::vec("[^\\n\\r\\x{feff}]{0,40}", 0..9)) {
        let source: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let expansion = expanded("", &source);
        prop_assert_eq!(&expansion.text, &source);
        prop_assert_eq!(expansion.origins.len(), expansion.text.lines().count());
    }

    #[test]
    fn no_text_stops_it(
        definitions in "(#define |[ABC]|[ABC] |\\\\?\\n|\"|\\\\|#|é|[ -~]){0,60}",
        source in "(-s |[ABC] ?|!|\\n|\"|\\\\|é|[ -~]){0,60}",
        line: u16, column in 0..99_u32,
    ) {
        match Macros::parse("v", &definitions) {
            Ok(macros) => {
                if let Ok(expansion) = macros.expand("i", &source) {
                    prop_assert_eq!(expansion.origins.len(), expansion.text.lines().count());
                    let _ = macros.trace(&source, &expansion, u32::from(line % 64), column);
                    for warning in &expansion.warnings {
                        prop_assert!(!warning.to_string().contains('\n'));
                    }
                }
            }
            Err(error) => prop_assert!(!error.to_string().contains('\n'), "{}", error),
        }
    }
}
