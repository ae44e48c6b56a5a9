//! What is printed parses to the same, and nothing that is read makes the parser panic.

mod texts;
mod world;

use policy::RuleId;
use proptest::prelude::*;
use rules::{RuleError, Ruleset, Warning};

fn parse(text: &str) -> Result<(Ruleset, Vec<Warning>), RuleError> {
    Ruleset::parse("rules.conf", text)
}

/// A text that was accepted must come back from its printed form, with nothing left to warn of.
fn comes_back(text: &str) -> Result<(), TestCaseError> {
    let Ok((ruleset, _)) = parse(text) else {
        return Ok(());
    };
    let printed = ruleset.to_string();
    let (again, _) =
        parse(&printed).map_err(|error| TestCaseError::fail(format!("{error}\n{printed}")))?;
    prop_assert_eq!(&again, &ruleset, "{}", printed);
    prop_assert_eq!(again.to_string(), printed);
    Ok(())
}

/// An error is one line and names a place that the text has.
fn is_well_formed(error: &RuleError, text: &str) -> Result<(), TestCaseError> {
    let shown = error.to_string();
    prop_assert!(!shown.contains(|c: char| c.is_control()), "{shown:?}");
    let prefix = format!("rules.conf:{}:{}: ", error.line, error.column);
    prop_assert!(
        shown.starts_with(&prefix) && shown.len() > prefix.len(),
        "{shown:?}"
    );
    let line = text.split('\n').nth(error.line as usize - 1);
    let length = line.map(|line| line.chars().count());
    prop_assert!(
        length.is_some_and(|length| error.column as usize <= length + 1),
        "{shown:?} is outside the text"
    );
    Ok(())
}

fn survives(text: &str) -> Result<(), TestCaseError> {
    if let Err(error) = parse(text) {
        is_well_formed(&error, text)?;
    }
    comes_back(text)
}

/// One change to a text: a piece cut, doubled, moved or overwritten.
fn mutated() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        "\\PC{0,3}",
        prop::sample::select(
            &[
                "!",
                " ! ",
                "\"",
                "\\",
                "\n",
                "\r\n",
                "\t",
                "-j first",
                "-A third -j first",
                ",",
                ":",
                "/",
                "[",
                "*",
                "COMMIT",
                "0",
                "99999999999999999999",
                "-p",
                "TPROXY",
                "\u{1b}[2J",
                "\u{feff}"
            ][..]
        )
        .prop_map(str::to_owned),
    ];
    let change = (any::<prop::sample::Index>(), 0..6usize, piece);
    (
        texts::ruleset(texts::Style::Ours),
        prop::collection::vec(change, 1..4),
    )
        .prop_map(|(text, changes)| {
            let mut chars: Vec<char> = text.chars().collect();
            for (at, cut, piece) in changes {
                let at = at.index(chars.len() + 1);
                let end = (at + cut).min(chars.len());
                chars.splice(at..end, piece.chars());
            }
            chars.into_iter().collect()
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn generated_rulesets_parse_and_come_back(text in texts::ruleset(texts::Style::Ours)) {
        let (ruleset, _) = parse(&text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        comes_back(&text)?;
        let saved = ruleset.save(|RuleId(id)| (id.into(), 1));
        let (again, _) = parse(&saved).map_err(|error| TestCaseError::fail(format!("{error}\n{saved}")))?;
        let bare = |ruleset: &Ruleset| {
            let mut bare = ruleset.clone();
            for chain in bare.tables.iter_mut().flat_map(|table| &mut table.value.chains) {
                chain.value.counters = rules::Counters::default();
                chain.value.rules.iter_mut().for_each(|rule| rule.value.counters = None);
            }
            bare
        };
        // Nothing but these goes into the compiled rules.
        prop_assert_eq!(bare(&again), bare(&ruleset), "{}", saved);
        let refused = |error: RuleError| TestCaseError::fail(format!("{error}\n{text}"));
        let (one, other) = (world::compile(&ruleset).map_err(refused)?, world::compile(&again).map_err(refused)?);
        prop_assert_eq!(one.policy.proxies(), other.policy.proxies());
        prop_assert_eq!(one.policy.owners(), other.policy.owners());
        prop_assert_eq!(one.policy.rule_count(), other.policy.rule_count());
        prop_assert_eq!(one.capture, other.capture);
        let counted: Vec<_> = again.rows().map(|row| (row.counters.packets, row.counters.bytes)).collect();
        let expected: Vec<_> = ruleset.rows().map(|row| (u64::from(row.id.0), 1)).collect();
        prop_assert_eq!(counted, expected, "{}", saved);
    }

    #[test]
    fn mutated_rulesets_never_panic(text in mutated()) {
        survives(&text)?;
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survives(&String::from_utf8_lossy(&bytes))?;
    }

    #[test]
    fn random_words_in_a_rule_never_panic(words in "\\PC{0,60}") {
        survives(&format!("*tproxy\n:a - [0:0]\n-A PREROUTING {words}\nCOMMIT\n"))?;
    }

    #[test]
    fn any_comment_comes_back(comment in "[^\n\r]{0,60}") {
        let escaped = comment.replace('\\', "\\\\").replace('"', "\\\"");
        let text = format!("*tproxy\n-A PREROUTING -m comment --comment \"{escaped}\"\nCOMMIT\n");
        parse(&text).map_err(|error| TestCaseError::fail(error.to_string()))?;
        comes_back(&text)?;
    }
}

const THREE_ZONES: &str = include_str!("fixtures/three-zones.conf");

#[test]
fn the_old_style_prints_in_the_new_one() {
    let (ruleset, warnings) = parse(THREE_ZONES).unwrap();
    assert_eq!(warnings, []);
    insta::assert_snapshot!(ruleset, @r"
    *tproxy
    :PREROUTING ACCEPT [0:0]
    :OUTPUT ACCEPT [0:0]
    :inside - [0:0]
    :outside - [0:0]
    :servers - [0:0]
    -A PREROUTING ! -d 192.168.1.1/32 -i eth1 -j inside
    -A PREROUTING ! -d 198.51.100.1/32 -i eth2 -j outside
    -A PREROUTING ! -d 10.0.0.1/32 -i eth3 -j servers
    -A inside -p tcp -m tcp --dport 80 -j TPROXY --on-port 50080
    -A inside -p tcp -m tcp --dport 21 -j TPROXY --on-port 50021
    COMMIT
    ");
}

#[test]
fn every_form_of_a_value_is_read() {
    let text = "\u{feff}*tproxy\r
:mine - [1:2]\r
[5:6] -A PREROUTING -s 10/8 -d 10.1/255.255.0.0,1.2.3.4 --in-interface eth+ --protocol TCP --source-port :99 ! --dport 1024: --jump mine\r
--append mine -p 0 -m comment --comment \"a 'b' \\\\ \\\" c\"\r
  -A mine -s 10.1.2.3/255.0.255.0 -p 47\r
-A mine -m udp --dport 53 -j TPROXY --on-ip 10.0.0.9 --on-port 0\r
-A mine -s 0/0 ! -d 0/0 -p tcp --sport : ! --dport :\r
COMMIT\r
";
    let (ruleset, warnings) = parse(text).unwrap();
    insta::assert_snapshot!(ruleset, @r#"
    *tproxy
    :PREROUTING ACCEPT [0:0]
    :OUTPUT ACCEPT [0:0]
    :mine - [1:2]
    [5:6] -A PREROUTING -s 10.0.0.0/8 -d 10.1.0.0/16 -i eth+ -p tcp -m tcp --sport 0:99 ! --dport 1024:65535 -j mine
    [5:6] -A PREROUTING -s 10.0.0.0/8 -d 1.2.3.4/32 -i eth+ -p tcp -m tcp --sport 0:99 ! --dport 1024:65535 -j mine
    -A mine -m comment --comment "a \'b\' \\ \" c"
    -A mine -s 10.0.2.0/255.0.255.0 -p gre
    -A mine -p udp -m udp --dport 53 -j TPROXY --on-ip 10.0.0.9
    -A mine ! -d 0.0.0.0/0 -p tcp -m tcp ! --dport 0:65535
    COMMIT
    "#);
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["rules.conf:6:9: no protocol is given; taken as -p udp; write that"]
    );
}

#[test]
fn names_of_protocols_and_services_are_read_and_printed_as_iptables_save_does() {
    let text = "*filter
-A INPUT -p IPv6-ICMP
-A INPUT -p ospf -j DROP
-A INPUT -p 4
-A INPUT -p ipip
-A INPUT -p 253
-A INPUT -p ip
-A INPUT -p tcp --sport ftp-data --dport ssh:https
-A INPUT -p udp -m multiport --dports domain,ntp,snmp
COMMIT
";
    let (ruleset, warnings) = parse(text).unwrap();
    assert_eq!(warnings, []);
    insta::assert_snapshot!(ruleset, @r"
    *filter
    :INPUT ACCEPT [0:0]
    :FORWARD DROP [0:0]
    :OUTPUT ACCEPT [0:0]
    -A INPUT -p ipv6-icmp
    -A INPUT -p ospf -j DROP
    -A INPUT -p ipencap
    -A INPUT -p ipip
    -A INPUT -p 253
    -A INPUT
    -A INPUT -p tcp -m tcp --sport 20 --dport 22:443
    -A INPUT -p udp -m multiport --dports 53,123,161
    COMMIT
    ");
    comes_back(text).unwrap();
}

#[test]
fn every_protocol_comes_back() {
    for number in 1..=255 {
        let text = format!("*filter\n-A INPUT -p {number}\nCOMMIT\n");
        comes_back(&text).unwrap();
    }
}

#[test]
fn rows_number_rules_by_chain_and_carry_the_counters_that_save_prints() {
    let text = "*tproxy\n:a - [0:0]\n-A a -j DROP\n-A PREROUTING -i eth0 -j a\n-A a\nCOMMIT\n";
    let (ruleset, _) = parse(text).unwrap();
    let rows: Vec<_> = ruleset
        .rows()
        .map(|r| (r.id.0, r.table, r.chain, r.number, r.line, r.text))
        .collect();
    let row = |id, chain: &str, number, line, text: &str| {
        (
            id,
            "tproxy",
            chain.to_owned(),
            number,
            line,
            text.to_owned(),
        )
    };
    assert_eq!(
        rows,
        [
            row(0, "PREROUTING", 1, 4, "-i eth0 -j a"),
            row(1, "a", 1, 3, "-j DROP"),
            row(2, "a", 2, 5, "")
        ]
    );
    let saved = ruleset.save(|RuleId(id)| (id.into(), u64::from(id) * 100));
    insta::assert_snapshot!(saved, @r"
    *tproxy
    :PREROUTING ACCEPT [3:300]
    :OUTPUT ACCEPT [4:400]
    :a - [0:0]
    [0:0] -A PREROUTING -i eth0 -j a
    [1:100] -A a -j DROP
    [2:200] -A a
    COMMIT
    ");
    assert_eq!(parse(&saved).unwrap().0.to_string(), saved);
}

#[test]
fn an_empty_text_is_a_ruleset_of_nothing() {
    let (ruleset, warnings) = parse("# nothing yet\n\n").unwrap();
    assert_eq!(
        (ruleset.tables.len(), warnings.len(), ruleset.to_string()),
        (0, 0, String::new())
    );
}

#[test]
fn lists_have_the_columns_of_iptables() {
    let text = "*filter\n:INPUT DROP [5:6]\n:mine - [0:0]\n\
        [1:2] -A INPUT ! -i eth+ -s 10.0.0.1 ! -d 10/8 -p tcp --dport 80:90 -m state --state NEW -g mine\n\
        -A INPUT -f -m comment --comment \"a b\" -j REJECT\n\
        -A mine -p icmp --icmp-type 3/4 -m limit --limit 3/min -j LOG --log-prefix \"x: \"\n\
        -A mine -p udp -m multiport ! --sports 1,5:9 -m mark --mark 1/3\n\
        -A OUTPUT -o lo -m owner --uid-owner 0 -j mine\nCOMMIT\n";
    let (ruleset, _) = parse(text).unwrap();
    let row = |r: rules::Row| {
        let rest = [r.input, r.output, r.source, r.destination, r.extra].join(" ");
        let (packets, bytes) = (r.counters.packets, r.counters.bytes);
        format!(
            "{} {} {packets} {bytes} {} {} {} {rest}",
            r.chain, r.number, r.target, r.prot, r.opt
        )
    };
    let shown: Vec<String> = ruleset.rows().map(row).collect();
    insta::assert_snapshot!(shown.join("\n"), @r#"
    INPUT 1 1 2 mine tcp -- !eth+ * 10.0.0.1 !10.0.0.0/8 tcp dpts:80:90 state NEW [goto]
    INPUT 2 0 0 REJECT all -f * * 0.0.0.0/0 0.0.0.0/0 /* a b */ reject-with icmp-port-unreachable
    OUTPUT 1 0 0 mine all -- * lo 0.0.0.0/0 0.0.0.0/0 owner UID match 0
    mine 1 0 0 LOG icmp -- * * 0.0.0.0/0 0.0.0.0/0 icmptype 3/4 limit: avg 3/min burst 5 LOG flags 0 level 4 prefix "x: "
    mine 2 0 0  udp -- * * 0.0.0.0/0 0.0.0.0/0 multiport sports ! 1,5:9 mark match 0x1/0x3
    "#);
    let chain = |c: rules::ChainRow| {
        let id = c.policy_id.map(|RuleId(id)| id);
        format!(
            "{} {} {:?} {id:?} {}",
            c.table, c.chain, c.policy, c.references
        )
    };
    let shown: Vec<String> = ruleset.chains().map(chain).collect();
    insta::assert_snapshot!(shown.join("\n"), @r"
    filter INPUT Some(Drop) Some(5) 0
    filter FORWARD Some(Drop) Some(6) 0
    filter OUTPUT Some(Accept) Some(7) 0
    filter mine None None 2
    ");
    let verdicts: Vec<_> = (0..9).map(|id| ruleset.verdict_text(RuleId(id))).collect();
    insta::assert_snapshot!(format!("{verdicts:?}"), @r#"[Some("-g mine"), Some("-j REJECT --reject-with icmp-port-unreachable"), Some("-j mine"), Some("-j LOG --log-prefix \"x: \""), None, Some("policy DROP"), Some("policy DROP"), Some("policy ACCEPT"), None]"#);
    assert_eq!(ruleset.log_prefix(RuleId(3)), Some("x: "));
    assert_eq!(ruleset.log_prefix(RuleId(0)), None);
}

/// The text of an administrator of 2.0's day, with its macros replaced.
#[test]
fn the_worked_example_loads_as_written() {
    let (ruleset, warnings) = parse(include_str!("fixtures/worked-example.conf")).unwrap();
    assert_eq!(warnings, []);
    let compiled = world::compile(&ruleset).unwrap();
    assert_eq!(compiled.warnings, []);
    assert!(compiled.policy.guards());
    comes_back(include_str!("fixtures/worked-example.conf")).unwrap();
}
