//! A ruleset of 100 000 lines is read, compiled and saved in seconds.

mod world;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rules::Ruleset;

#[test]
fn a_hundred_thousand_lines_load_in_seconds() {
    let mut text = "*filter\n:INPUT DROP [0:0]\n".to_owned();
    for chain in 0..100 {
        writeln!(text, ":c{chain} - [0:0]").unwrap();
    }
    for chain in 0..100 {
        writeln!(text, "-A INPUT -s 10.{chain}.0.0/16 -j c{chain}").unwrap();
    }
    for line in 0..100_000u32 {
        let (chain, [_, _, a, b]) = (line % 100, line.to_be_bytes());
        let port = line % 60_000;
        writeln!(text, "[1:60] -A c{chain} -s 10.{chain}.{a}.{b}/32 -p tcp -m tcp --dport {port} -m conntrack --ctstate NEW -m comment --comment \"rule {line}\" -j ACCEPT").unwrap();
    }
    text += "COMMIT\n";
    let (begin, mut heard) = (Instant::now(), Vec::new());
    let mut progress = |done, total| heard.push((done, total));
    let (ruleset, _) = Ruleset::parse_with("rules.conf", &text, &mut progress).unwrap();
    let parsed = begin.elapsed();
    let compiled = world::compile(&ruleset).unwrap();
    let ready = begin.elapsed();
    let saved = ruleset.save(|_| (1, 60));
    let done = begin.elapsed();
    println!("parsed {parsed:?}, compiled {ready:?}, saved {done:?}");
    assert_eq!(saved.lines().count(), text.lines().count() + 2);
    assert_eq!(compiled.policy.rule_count(), 100_103);
    let total = heard.last().unwrap().1;
    assert_eq!(heard.last(), Some(&(total, total)));
    assert!(heard.len() > 50 && heard.is_sorted(), "{heard:?}");
    // Far above what it takes even without optimization, far below what anything quadratic would.
    assert!(done < Duration::from_secs(60), "{done:?}");
}
