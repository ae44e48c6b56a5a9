//! Every error, as it is told.

use macros::{MAX_WORDS, Macros};

fn refused(definitions: &str) -> String {
    Macros::parse("conf.var", definitions)
        .unwrap_err()
        .to_string()
}

#[test]
fn in_definitions() {
    let nested: String = (0..70)
        .map(|n| format!("#define A{n} A{}\n", n + 1))
        .collect();
    let reversed: String = (0..70)
        .rev()
        .map(|n| format!("#define A{n} A{}\n", n + 1))
        .collect();
    let doubling: String = (0..40)
        .map(|n| format!("#define A{n} A{0} A{0}\n", n + 1))
        .collect();
    let lengthening: String = (0..40)
        .map(|n| format!("#define A{n} A{0},A{0}\n", n + 1))
        .collect();
    let many = vec!["x"; MAX_WORDS].join(" ");
    let wrong = [
        "SSH 1.2.3.4".to_owned(),
        "#define".to_owned(),
        "\n  #define   9A x".to_owned(),
        "#define A-B x".to_owned(),
        "#define A\u{1b}[2J x".to_owned(),
        "#defien A x".to_owned(),
        "#include \"other.var\"".to_owned(),
        "#ifdef A".to_owned(),
        "#define A 1\n\n#define A 2".to_owned(),
        "#define A \"x".to_owned(),
        "#define A 1 /* one */".to_owned(),
        "#define A 1 // one".to_owned(),
        "#define A 1 \\ # one\n 2".to_owned(),
        "#define A 1 \\\n#define B 2".to_owned(),
        "#define A A".to_owned(),
        "#define A 1 B\n#define B x,C\n#define C 2 \\\n A".to_owned(),
        "#define X B\n#define B C\n#define C B".to_owned(),
        nested,
        reversed,
        format!("{doubling}#define A40 x x"),
        format!("{lengthening}#define A40 xxxxxxxx"),
        format!("#define A {many}\n#define B y"),
        format!(
            "#define A {}\n#define B {}",
            "x".repeat(1 << 20),
            "A,".repeat(1 << 20)
        ),
    ];
    let told: Vec<String> = wrong.iter().map(|wrong| refused(wrong)).collect();
    insta::assert_snapshot!("definitions", told.join("\n"));
}

#[test]
fn in_rulesets() {
    let words = vec!["x"; 2000].join(" ");
    let definitions = format!(
        "#define A {words}\n#define B {words}\n#define C A B\n#define D C\n#define E {}",
        "x".repeat(1 << 20)
    );
    let macros = Macros::parse("conf.var", &definitions).unwrap();
    let long = vec!["yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy"; 10_000].join(" ");
    let wrong = [
        "\n-s A -d B -j ACCEPT".to_owned(),
        "A B C D A.B A,B,C,D A".to_owned(),
        format!("A {long}"),
        "E,".repeat(1 << 20),
    ];
    let told = wrong
        .iter()
        .map(|wrong| macros.expand("conf.in", wrong).unwrap_err().to_string());
    insta::assert_snapshot!("rulesets", told.collect::<Vec<_>>().join("\n"));
}

#[test]
fn the_nearest_name() {
    let macros = Macros::parse("v", "#define SSH_PERMITTED a\n#define WEB b").unwrap();
    assert_eq!(macros.nearest("SSH_PERMITED"), Some("SSH_PERMITTED"));
    assert_eq!(macros.nearest("WBE"), Some("WEB"));
    assert_eq!(macros.nearest("WEB"), None);
    assert_eq!(macros.nearest("tcp"), None);
    assert_eq!(macros.nearest(&"W".repeat(100_000)), None);
}
