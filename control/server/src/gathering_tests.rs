//! Records become entries, and some of them lines of the daemon's own log.

use std::io::{Read, Seek};
use std::sync::Arc;
use std::time::Duration;

use pipeline::{EXAMPLE_BYTES, PortId};

use super::*;
use crate::packet::tests::SYN;

const DATES: Dates = Dates {
    now_ns: 50,
    today_ns: 1_000,
};

fn record(in_port: Option<PortId>) -> LogRecord {
    let mut head = [0; EXAMPLE_BYTES];
    head[..SYN.len()].copy_from_slice(&SYN);
    LogRecord {
        what: What::Rule(policy::RuleId(3)),
        generation: 8,
        hook: None,
        at_ns: 20,
        in_port,
        out_port: None,
        mark: 5,
        frame_bytes: SYN.len() as u32,
        head,
    }
}

fn words() -> LogWords {
    LogWords {
        prefix: "LOintra: ".into(),
        table: Some("filter".into()),
        chain: Some("LOintra".into()),
        line: Some(12),
        in_interface: "eth1".into(),
        ..LogWords::default()
    }
}

#[test]
fn a_rules_record_becomes_a_line_like_the_kernels() {
    let entry = tell(&record(Some(PortId(0))), Some(words()), DATES);
    assert_eq!((entry.at_ns, entry.generation, entry.count), (970, 8, 1));
    assert_eq!((entry.kind, entry.line), (LogKind::Rule, Some(12)));
    assert_eq!(
        entry.to_string(),
        "LOintra: IN=eth1 OUT= MAC=02:00:00:00:00:01:02:00:00:00:00:02:08:00 SRC=10.0.0.1 \
         DST=192.0.2.1 LEN=40 TOS=0x10 PREC=0x00 TTL=64 ID=4711 DF PROTO=TCP SPT=4660 DPT=80 \
         WINDOW=64240 RES=0x00 SYN MARK=0x5"
    );
    assert_eq!(name_of(&entry), "LOG rule in LOintra, line 12");
}

/// What goes to the daemon's own log meanwhile.
fn traced<T>(work: impl FnOnce() -> T) -> (T, String) {
    let mut file = tempfile::tempfile().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(Arc::new(file.try_clone().unwrap()))
        .with_ansi(false)
        .finish();
    let done = tracing::subscriber::with_default(subscriber, work);
    let mut text = String::new();
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    (done, text)
}

#[test]
fn every_record_is_an_entry_and_the_daemons_log_gets_ten_a_second() {
    let mut gathering = Gathering::default();
    let records = |from: u64| -> Vec<LogRecord> {
        let at = |at_ns| LogRecord {
            at_ns,
            ..record(None)
        };
        (from..from + 25).rev().map(at).collect()
    };
    let dates = |now_ns| Dates { now_ns, ..DATES };
    let words = |_: &LogRecord| Some(words());
    let (entries, text) = traced(|| gathering.tell_all(records(20), words, dates(50)));
    let times: Vec<u64> = entries.iter().map(|entry| entry.at_ns).collect();
    assert_eq!(
        times,
        (970..995).collect::<Vec<_>>(),
        "in order, all of them"
    );
    assert_eq!(
        text.matches("xtproxy::log: LOintra: IN=eth1").count(),
        10,
        "{text}"
    );
    assert_eq!(text.lines().count(), 10, "{text}");
    let later = dates(50 + SECOND_NS);
    let (none, text) = traced(|| gathering.tell_all(Vec::new(), words, later));
    assert!(none.is_empty());
    assert!(
        text.contains("LOG rule in LOintra, line 12: 15 more"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn drops_go_to_the_daemons_log_too() {
    let mut watch = DropWatch::default();
    let look =
        |watch: &mut DropWatch, count, now_ns| watch.look(DropReason::NoFlow, count, None, now_ns);
    let (_, text) = traced(|| {
        assert_eq!(look(&mut watch, 3, SECOND_NS), None, "an example may come");
        look(&mut watch, 3, SECOND_NS)
    });
    assert!(
        text.contains("xtproxy::drop: no_flow: 3 packets dropped"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1, "{text}");
}

#[test]
fn what_the_box_sends_has_no_mac_and_forgotten_rules_no_words() {
    let entry = tell(&record(None), None, DATES);
    assert_eq!(entry.packet.as_ref().unwrap().mac, None);
    assert!(entry.to_string().starts_with("IN= OUT= SRC=10.0.0.1 "));
    assert_eq!(name_of(&entry), "a LOG rule");
    let short = LogRecord {
        frame_bytes: 20,
        ..record(None)
    };
    assert_eq!(
        tell(&short, None, DATES).packet,
        None,
        "the rest is not the frame's"
    );
}

#[test]
fn a_refusal_names_both_zones_and_the_service() {
    let denied = LogRecord {
        what: What::Zone(policy::ZoneDenial {
            from: None,
            to: None,
            service: None,
        }),
        ..record(Some(PortId(0)))
    };
    let words = LogWords {
        from_zone: Some("intra".into()),
        to_zone: Some("inter".into()),
        service: Some("http".into()),
        ..LogWords::default()
    };
    let text = tell(&denied, Some(words), DATES).to_string();
    assert!(
        text.starts_with("zone_denied: intra to inter, service http IN="),
        "{text}"
    );
}

#[test]
fn dates_are_told_from_the_clock() {
    let today = UNIX_EPOCH + Duration::from_nanos(1_000);
    let dates = Dates::new(50, today);
    assert_eq!(
        (dates.of(50), dates.of(20), dates.of(60)),
        (1_000, 970, 1_000)
    );
}

#[test]
fn what_is_lost_is_told_once_a_second() {
    let mut lost = Lost::default();
    assert_eq!(lost.look(0, SECOND_NS), None);
    assert_eq!(lost.look(4, SECOND_NS).map(|entry| entry.count), Some(4));
    assert_eq!(lost.look(9, 2 * SECOND_NS - 1), None);
    assert_eq!(
        lost.look(9, 2 * SECOND_NS).map(|entry| entry.count),
        Some(5)
    );
    assert_eq!(lost.look(9, 9 * SECOND_NS), None);
}
