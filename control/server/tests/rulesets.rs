//! Rules: loaded, tried, shown and explained, while others are served.

mod conversation;
mod fixture;

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use conversation::{connect, failure, reply};
use fixture::{Running, server};
use protocol::{
    CONTROL_SOCKET, ErrorKind, REPLY_MAX_BYTES, Reply, RuleChain, RuleRow, RuleTable, Rules,
};

/// How long something may take that takes no time.
const SOON: Duration = Duration::from_secs(10);

fn ask(dir: &Path, request: &str) -> UnixStream {
    let mut stream = connect(dir, CONTROL_SOCKET);
    writeln!(stream, r#"{{"version":1,{request}}}"#).unwrap();
    stream
}

fn load(dir: &Path, ruleset: &str) -> UnixStream {
    let request = format!(r#""request":"rules_load","ruleset":"{ruleset}""#);
    ask(dir, &request)
}

/// All that comes until something other than progress, which is the last.
fn outcome(stream: &UnixStream) -> (Vec<(String, u64, u64)>, Reply) {
    let mut progress = Vec::new();
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str(&line.unwrap()).unwrap() {
            Reply::Progress { stage, done, total } => progress.push((stage, done, total)),
            other => return (progress, other),
        }
    }
    panic!("no answer after {progress:?}");
}

fn refusal(stream: &UnixStream) -> (ErrorKind, String) {
    match outcome(stream).1 {
        Reply::Error(failure) => (failure.kind, failure.message),
        other => panic!("{other:?}"),
    }
}

/// Whether somebody else is answered at once.
fn assert_responsive(dir: &Path) {
    let begun = Instant::now();
    let answer = reply(&ask(dir, r#""request":"flows_count""#));
    assert_eq!(answer, Reply::Count { count: 6 });
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

fn await_calls(running: &Running, count: usize) -> Vec<String> {
    let begun = Instant::now();
    loop {
        let calls = running.machine.calls();
        if calls.len() >= count {
            return calls;
        }
        assert!(begun.elapsed() < SOON, "{calls:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn loading_tells_how_far_it_is_and_what_came_of_it() {
    let (dir, running) = server();
    let stream = ask(
        dir.path(),
        r#""request":"rules_load","ruleset":"/r/new","sets":"/r/sets","try_ms":1500"#,
    );
    let (progress, answer) = outcome(&stream);
    assert_eq!(progress.first(), Some(&("read".into(), 0, 100_000)));
    assert_eq!(progress.last(), Some(&("compile".into(), 0, 0)));
    assert!(progress.len() < 100, "{} lines", progress.len());
    let Reply::RulesLoaded(loaded) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!((loaded.generation, loaded.ticket), (4, Some(77)));
    let want = r#"load LoadOrder { ruleset: "/r/new", sets: Some("/r/sets"), try_for: Some(1.5s), replace: None }"#;
    assert_eq!(running.machine.calls(), [want]);
    // The conversation goes on.
    writeln!(
        &stream,
        r#"{{"version":1,"request":"rules_load","ruleset":"/r/new","replace":"/r/now"}}"#
    )
    .unwrap();
    assert!(matches!(outcome(&stream).1, Reply::RulesLoaded(_)));
    assert!(running.machine.calls()[1].ends_with(r#"try_for: None, replace: Some("/r/now") }"#));
    let stream = ask(dir.path(), r#""request":"rules_check","ruleset":"/r/new""#);
    let (progress, answer) = outcome(&stream);
    assert!(!progress.is_empty());
    assert!(matches!(answer, Reply::RulesChecked(checked) if checked.rules == 12));
    assert!(running.machine.calls()[2].starts_with("check "));
}

#[test]
fn one_loads_at_a_time_and_nobody_else_waits() {
    let (dir, running) = server();
    let first = load(dir.path(), "/r/slow");
    let begun = Instant::now();
    let refused = loop {
        // The first may not have come to its turn yet; then this one is loaded.
        match outcome(&load(dir.path(), "/r/other")).1 {
            Reply::RulesLoaded(_) => assert!(begun.elapsed() < SOON),
            other => break other,
        }
    };
    let Reply::Error(failure) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(failure.kind, ErrorKind::Refused);
    assert!(failure.message.contains("another ruleset is being loaded"));
    assert_responsive(dir.path());
    // Nor do those who only check.
    let check = ask(dir.path(), r#""request":"rules_check","ruleset":"/r/x""#);
    assert!(matches!(outcome(&check).1, Reply::RulesChecked(_)));
    running.machine.let_go();
    assert!(matches!(outcome(&first).1, Reply::RulesLoaded(_)));
    let next = load(dir.path(), "/r/next");
    assert!(matches!(outcome(&next).1, Reply::RulesLoaded(_)));
}

#[test]
fn who_hangs_up_undoes_nothing() {
    let (dir, running) = server();
    let gone = ask(
        dir.path(),
        r#""request":"rules_load","ruleset":"/r/slow","try_ms":60000"#,
    );
    // It has begun.
    assert!(matches!(reply(&gone), Reply::Progress { .. }));
    drop(gone);
    assert_responsive(dir.path());
    assert!(running.machine.calls().is_empty());
    let kind = refusal(&load(dir.path(), "/r/other")).0;
    assert_eq!(kind, ErrorKind::Refused, "the turn is not given back early");
    running.machine.let_go();
    let calls = await_calls(&running, 1);
    assert!(calls[0].contains("/r/slow"), "{calls:?}");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(running.machine.calls().len(), 1, "nothing reverts it");
}

#[test]
fn what_fails_is_an_answer_and_the_next_may_load() {
    let (dir, running) = server();
    let stream = load(dir.path(), "/r/bad");
    let (kind, message) = refusal(&stream);
    assert_eq!(kind, ErrorKind::Refused);
    assert!(message.starts_with("rules.bad:3:7: "), "{message}");
    let (kind, message) = refusal(&load(dir.path(), "/r/broken"));
    assert_eq!(kind, ErrorKind::Internal);
    assert!(message.contains("log"), "{message}");
    assert!(running.machine.calls().is_empty());
    let next = load(dir.path(), "/r/next");
    assert!(matches!(outcome(&next).1, Reply::RulesLoaded(_)));
}

#[test]
fn orders_that_make_no_sense_do_not_reach_the_machine() {
    let (dir, running) = server();
    let stream = connect(dir.path(), CONTROL_SOCKET);
    for (fields, words) in [
        (
            r#""ruleset":"rules""#,
            "ruleset: \"rules\" is no absolute path",
        ),
        (r#""ruleset":"""#, "no absolute path"),
        (r#""ruleset":"/r","sets":"s""#, "sets: \"s\""),
        (r#""ruleset":"/r","replace":"./x""#, "replace: \"./x\""),
        (r#""ruleset":"/r","try_ms":0"#, "try_ms"),
        (r#""ruleset":"/r","try_ms":9,"replace":"/x""#, "a trial"),
    ] {
        writeln!(
            &stream,
            r#"{{"version":1,"request":"rules_load",{fields}}}"#
        )
        .unwrap();
        let (kind, message) = failure(&stream);
        assert_eq!(kind, ErrorKind::Refused, "{fields}");
        assert!(message.contains(words), "{message}");
    }
    writeln!(
        &stream,
        r#"{{"version":1,"request":"rules_check","ruleset":"r"}}"#
    )
    .unwrap();
    assert_eq!(failure(&stream).0, ErrorKind::Refused);
    assert!(running.machine.calls().is_empty());
}

#[test]
fn trials_zones_and_explanations() {
    let (dir, running) = server();
    let stream = connect(dir.path(), CONTROL_SOCKET);
    for request in ["rules_keep", "rules_revert"] {
        let ask = |ticket: u64| {
            writeln!(
                &stream,
                r#"{{"version":1,"request":"{request}","ticket":{ticket}}}"#
            )
            .unwrap();
            reply(&stream)
        };
        assert_eq!(ask(77), Reply::Done);
        assert!(matches!(ask(78), Reply::Error(failure) if failure.message == "no such trial"));
    }
    let calls = ["keep 77", "keep 78", "revert 77", "revert 78"];
    assert_eq!(running.machine.calls(), calls);
    let explain = |proto: &str| {
        let packet = format!(r#"{{"src":"10.0.0.1:1","dst":"1.2.3.4:80","proto":"{proto}"}}"#);
        writeln!(
            &stream,
            r#"{{"version":1,"request":"rules_explain","packet":{packet}}}"#
        )
        .unwrap();
        reply(&stream)
    };
    let Reply::Explained(told) = explain("tcp") else {
        panic!("not explained");
    };
    assert_eq!((told.verdict.as_str(), told.steps.len()), ("redirected", 1));
    assert!(told.steps[0].text.contains("1.2.3.4:80"));
    assert!(matches!(explain("no"), Reply::Error(failure) if failure.kind == ErrorKind::Refused));
    writeln!(&stream, r#"{{"version":1,"request":"zones"}}"#).unwrap();
    let Reply::Zones(matrix) = reply(&stream) else {
        panic!("no zones");
    };
    assert_eq!(matrix.reach[0].to.as_deref(), Some("inter"));
}

#[test]
fn a_trial_that_ends_slowly_holds_up_nobody() {
    let (dir, running) = server();
    let ending = ["rules_keep", "rules_revert"]
        .map(|request| ask(dir.path(), &format!(r#""request":"{request}","ticket":99"#)));
    await_calls(&running, 2);
    assert_responsive(dir.path());
    running.machine.let_go();
    for stream in ending {
        assert_eq!(reply(&stream), Reply::Done);
    }
}

fn very_many(count: u32) -> Rules {
    let row = |line| RuleRow {
        line,
        text: format!(
            "-s 10.{}.{}.0/24 -p tcp -m tcp --dport 80 -j DROP",
            line >> 8,
            line & 255
        ),
        target: "DROP".into(),
        source: format!("10.{}.{}.0/24", line >> 8, line & 255),
        extra: "tcp dpt:80".into(),
        ..RuleRow::default()
    };
    let chain = RuleChain {
        name: "FORWARD".into(),
        policy: Some("DROP".into()),
        rules: (1..=count).map(row).collect(),
        ..RuleChain::default()
    };
    let table = RuleTable {
        name: "filter".into(),
        chains: vec![chain],
    };
    Rules {
        generation: 9,
        tables: vec![table],
    }
}

#[test]
fn a_hundred_thousand_rules_come_in_short_lines_and_hold_up_nobody() {
    let (dir, running) = server();
    let rules = very_many(100_000);
    *running.machine.rules.lock().unwrap() = Some(rules.clone());
    let stream = ask(dir.path(), r#""request":"rules_show""#);
    let mut lines = BufReader::new(&stream);
    let mut whole: Option<Rules> = None;
    let mut slowest = Duration::ZERO;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert!(line.len() <= REPLY_MAX_BYTES);
        let reply = serde_json::from_str(&line).unwrap();
        let Reply::Rules { rules, more } = reply else {
            panic!("{reply:?}");
        };
        match &mut whole {
            None => whole = Some(rules),
            Some(whole) => whole.append(rules),
        }
        let begun = Instant::now();
        assert_responsive(dir.path());
        slowest = slowest.max(begun.elapsed());
        if !more {
            break;
        }
    }
    assert_eq!(whole, Some(rules));
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

#[test]
fn who_does_not_read_the_rules_is_cut_off() {
    let (dir, running) = server();
    *running.machine.rules.lock().unwrap() = Some(very_many(50_000));
    let mut deaf = ask(dir.path(), r#""request":"rules_show""#);
    std::thread::sleep(Duration::from_secs(7));
    let mut rest = Vec::new();
    let _ = deaf.read_to_end(&mut rest);
    assert!(rest.len() < 4_000_000, "{} bytes came", rest.len());
    assert_responsive(dir.path());
}
