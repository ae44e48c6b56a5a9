//! The lines of rules, and their pages.

use proptest::prelude::*;

use super::*;
use crate::{Envelope, Reply, Request};

fn said(reply: &Reply, text: &str) {
    let line = crate::line(reply).unwrap();
    assert_eq!(str::from_utf8(&line).unwrap(), format!("{text}\n"));
    assert_eq!(&serde_json::from_slice::<Reply>(&line).unwrap(), reply);
}

#[test]
fn the_line_of_a_page_is_as_documented() {
    let rule = RuleRow {
        line: 7,
        packets: 3,
        bytes: 180,
        text: "-i eth1 -j DROP".into(),
        target: "DROP".into(),
        prot: "all".into(),
        opt: "--".into(),
        in_interface: "eth1".into(),
        out_interface: "*".into(),
        source: "0.0.0.0/0".into(),
        destination: "0.0.0.0/0".into(),
        extra: String::new(),
    };
    let chain = RuleChain {
        name: "INPUT".into(),
        policy: Some("ACCEPT".into()),
        packets: 9,
        bytes: 900,
        references: 0,
        rules: vec![rule],
    };
    let table = RuleTable {
        name: "filter".into(),
        chains: vec![chain],
    };
    let rules = Rules {
        generation: 4,
        tables: vec![table],
    };
    let reply = Reply::Rules { rules, more: true };
    said(
        &reply,
        concat!(
            r#"{"reply":"rules","generation":4,"tables":[{"name":"filter","chains":[{"#,
            r#""name":"INPUT","policy":"ACCEPT","packets":9,"bytes":900,"references":0,"#,
            r#""rules":[{"line":7,"packets":3,"bytes":180,"text":"-i eth1 -j DROP","#,
            r#""target":"DROP","prot":"all","opt":"--","in_interface":"eth1","#,
            r#""out_interface":"*","source":"0.0.0.0/0","destination":"0.0.0.0/0","#,
            r#""extra":""}]}]}],"more":true}"#
        ),
    );
}

#[test]
fn a_page_of_an_earlier_daemon_is_the_only_one() {
    let text = r#"{"reply":"rules","generation":1,"tables":[{"name":"tproxy","chains":[
        {"name":"WEB","policy":null,"rules":[{"line":1,"packets":2,"bytes":3,"text":"-j DROP"}]}]}]}"#;
    let reply: Reply = serde_json::from_str(text).unwrap();
    let Reply::Rules { rules, more } = reply else {
        panic!("{reply:?}");
    };
    assert!(!more && rules.tables[0].chains[0].rules[0].target.is_empty());
}

#[test]
fn what_loading_says_is_as_documented() {
    let loaded = RulesLoaded {
        generation: 5,
        rules: 12,
        warnings: vec!["iptables.conf.new:3:1: not forwarded yet".into()],
        warnings_left: 0,
        ticket: Some(77),
        flows: 9,
    };
    said(
        &Reply::RulesLoaded(loaded),
        concat!(
            r#"{"reply":"rules_loaded","generation":5,"rules":12,"#,
            r#""warnings":["iptables.conf.new:3:1: not forwarded yet"],"#,
            r#""warnings_left":0,"ticket":77,"flows":9}"#
        ),
    );
    let checked = RulesChecked {
        rules: 12,
        ..RulesChecked::default()
    };
    said(
        &Reply::RulesChecked(checked),
        r#"{"reply":"rules_checked","rules":12,"warnings":[],"warnings_left":0}"#,
    );
    let progress = Reply::Progress {
        stage: "reading".into(),
        done: 10,
        total: 100,
    };
    let text = r#"{"reply":"progress","stage":"reading","done":10,"total":100}"#;
    said(&progress, text);
    said(&Reply::Done, r#"{"reply":"done"}"#);
}

#[test]
fn an_explanation_is_as_documented() {
    let step = ExplainStep {
        table: "tproxy".into(),
        chain: "PRintra".into(),
        line: Some(9),
        text: "-p tcp -m tcp --dport 80 -j TPROXY --on-port 50080".into(),
        action: "redirect to 10.0.0.1:50080".into(),
    };
    let explanation = Explanation {
        steps: vec![step],
        verdict: "redirected".into(),
        proxy: Some("10.0.0.1:50080".into()),
        note: None,
    };
    said(
        &Reply::Explained(explanation),
        concat!(
            r#"{"reply":"explained","steps":[{"table":"tproxy","chain":"PRintra","line":9,"#,
            r#""text":"-p tcp -m tcp --dport 80 -j TPROXY --on-port 50080","#,
            r#""action":"redirect to 10.0.0.1:50080"}],"verdict":"redirected","#,
            r#""proxy":"10.0.0.1:50080","note":null}"#
        ),
    );
}

#[test]
fn orders_are_as_documented() {
    let load = Request::RulesLoad {
        ruleset: "/etc/xtproxy/iptables.conf.new".into(),
        sets: None,
        try_ms: Some(15_000),
        replace: None,
    };
    let line = crate::line(&Envelope::new(load.clone())).unwrap();
    let text = concat!(
        r#"{"version":1,"request":"rules_load","#,
        r#""ruleset":"/etc/xtproxy/iptables.conf.new","try_ms":15000}"#,
        "\n"
    );
    assert_eq!(str::from_utf8(&line).unwrap(), text);
    assert_eq!(Envelope::parse(&line), Ok(load));
    let mistaken = br#"{"version":1,"request":"rules_explain","packet":{"source":"1.2.3.4"}}"#;
    let failure = Envelope::parse(mistaken).unwrap_err();
    assert!(
        failure.message.contains("unknown field `source`"),
        "{failure}"
    );
}

fn rules() -> impl Strategy<Value = Rules> {
    let chain = ("[A-C]", 0_u64..9, 0..7_usize);
    let table = ("[a-c]", prop::collection::vec(chain, 0..5));
    prop::collection::vec(table, 0..4).prop_map(|tables| {
        let mut line = 0;
        let mut rules = Rules {
            generation: 3,
            tables: Vec::new(),
        };
        for (at, (name, chains)) in tables.into_iter().enumerate() {
            let chains = chains.into_iter().enumerate();
            let chains = chains.map(|(nth, (name, references, count))| RuleChain {
                // Names are unique where they come from.
                name: format!("{name}{nth}"),
                references,
                rules: (0..count)
                    .map(|_| {
                        line += 1;
                        RuleRow {
                            line,
                            ..RuleRow::default()
                        }
                    })
                    .collect(),
                ..RuleChain::default()
            });
            rules.tables.push(RuleTable {
                name: format!("{name}{at}"),
                chains: chains.collect(),
            });
        }
        rules
    })
}

proptest! {
    #[test]
    fn pages_make_the_whole_again(rules in rules(), most in 0..9_usize) {
        let pages = rules.clone().pages(most);
        let mut whole: Option<Rules> = None;
        for page in pages {
            let chains = page.tables.iter().flat_map(|table| &table.chains);
            let held: usize = chains.map(|chain| chain.rules.len()).sum();
            prop_assert!(held <= most.max(1));
            match &mut whole {
                None => whole = Some(page),
                Some(whole) => whole.append(page),
            }
        }
        prop_assert_eq!(whole, Some(rules));
    }
}
