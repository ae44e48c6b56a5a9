//! iptables-restore is the judge of the syntax that we have in common with it.

mod texts;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use rules::Ruleset;

/// A network namespace of this test, gone when dropped.
struct Namespace(String);

impl Namespace {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("xtrules-{}-{number}", std::process::id());
        let made = Command::new("ip").args(["netns", "add", &name]).status();
        assert!(made.expect("ip runs").success(), "ip netns add {name}");
        Self(name)
    }

    /// What iptables-restore says against the text; nothing if it would load it.
    fn objection(&self, text: &str) -> Option<String> {
        let mut child = Command::new("timeout")
            .args(["20", "ip", "netns", "exec", &self.0])
            .args(["iptables-restore", "--test"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("iptables is installed");
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(text.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (!output.status.success()).then_some(said)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let deleted = Command::new("ip").args(["netns", "del", &self.0]).status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("namespace {} is left over", self.0);
        }
    }
}

/// 250 texts, and each again as we print it.
#[test]
fn what_we_accept_and_print_iptables_accepts() {
    let namespace = Namespace::new();
    let mut runner = TestRunner::deterministic();
    let mut rules = 0;
    for _ in 0..250 {
        let text = texts::ruleset(texts::Style::Common)
            .new_tree(&mut runner)
            .unwrap()
            .current();
        let (ruleset, warnings) = Ruleset::parse("rules.conf", &text).unwrap();
        assert_eq!(warnings, [], "{text}");
        rules += ruleset.rule_count();
        let printed = ruleset.to_string();
        for text in [text, printed] {
            if let Some(said) = namespace.objection(&text) {
                panic!("{said}\n{text}");
            }
        }
    }
    assert!(rules > 1000, "only {rules} rules were judged");
}

/// Both read each number, and print the same for it.
#[test]
fn protocols_are_printed_as_iptables_save_prints_them() {
    let namespace = Namespace::new();
    let rules: String = (1..=255).map(|n| format!("-A INPUT -p {n}\n")).collect();
    let text = format!("*filter\n{rules}COMMIT\n");
    let run = |command: &str| {
        let mut child = Command::new("timeout")
            .args(["20", "ip", "netns", "exec", &namespace.0, command])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("iptables is installed");
        child.stdin.take().unwrap().write_all(text.as_bytes()).ok();
        let output = child.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    run("iptables-restore");
    let saved = run("iptables-save");
    let theirs: Vec<&str> = saved.lines().filter(|l| l.starts_with("-A")).collect();
    let ours = Ruleset::parse("rules.conf", &text).unwrap().0.to_string();
    let ours: Vec<&str> = ours.lines().filter(|l| l.starts_with("-A")).collect();
    assert_eq!(ours.len(), 255);
    assert_eq!(ours, theirs);
}

/// Each is wrong for both. Names of chains are not here: with --test iptables does not look for them.
#[test]
fn what_iptables_refuses_we_refuse() {
    let namespace = Namespace::new();
    let filter = [
        "-A INPUT -p tcp --dport 70000 -j ACCEPT",
        "-A INPUT -p tcp --dport 90:80 -j ACCEPT",
        "-A INPUT --dport 80 -j ACCEPT",
        "-A INPUT -p icmp --dport 80 -j ACCEPT",
        "-A INPUT -p tcp --icmp-type 8 -j ACCEPT",
        "-A INPUT -p icmp --icmp-type wrong -j ACCEPT",
        "-A INPUT -p tcp --tcp-flags SYN -j ACCEPT",
        "-A INPUT -p tcp --tcp-flags SIN SYN -j ACCEPT",
        "-A INPUT -p tcp -m multiport --dports 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16",
        "-A INPUT -m multiport --dports 80",
        "-A INPUT -p tcp -m multiport --dports 80 --sports 80",
        "-A INPUT -p tcp -m multiport",
        "-A INPUT -o eth0 -j ACCEPT",
        "-A OUTPUT -i eth0 -j ACCEPT",
        "-A INPUT -s 10.0.0.0/33 -j ACCEPT",
        "-A INPUT ! -s 10.0.0.1,10.0.0.2 -j ACCEPT",
        "-A INPUT -s 10.0.0.1 -s 10.0.0.2 -j ACCEPT",
        "-A INPUT -j ACCEPT -j DROP",
        "-A INPUT ! -j DROP",
        "-A INPUT -m state --state NEWW -j ACCEPT",
        "-A INPUT -m state -j ACCEPT",
        "-A INPUT -m state --state SNAT -j ACCEPT",
        "-A INPUT -m conntrack --ctstate CLOSED -j ACCEPT",
        "-A INPUT -m conntrack -j ACCEPT",
        "-A INPUT -m limit --limit 5/week -j ACCEPT",
        "-A INPUT -m limit --limit 0/sec -j ACCEPT",
        "-A INPUT -m limit --limit 20000/sec -j ACCEPT",
        "-A INPUT -m limit ! --limit 5/sec -j ACCEPT",
        "-A INPUT -m limit --limit-burst 10001 -j ACCEPT",
        "-A INPUT -m hashlimit --hashlimit-upto 5/sec -j ACCEPT",
        "-A INPUT -m hashlimit --hashlimit-name x -j ACCEPT",
        "-A INPUT -m hashlimit --hashlimit-upto 5/sec --hashlimit-name x --hashlimit-mode ip",
        "-A INPUT -m mark -j ACCEPT",
        "-A INPUT -m mark --mark red -j ACCEPT",
        "-A INPUT -m mac --mac-source 02:00:00:00:00 -j ACCEPT",
        "-A INPUT -m iprange -j ACCEPT",
        "-A INPUT -m iprange --src-range 10.0.0.9-x -j ACCEPT",
        "-A INPUT -m owner -j ACCEPT",
        "-A INPUT -m comment -j ACCEPT",
        "-A INPUT -m nosuch -j ACCEPT",
        "-A INPUT --ctstate NEW -j ACCEPT",
        "-A INPUT -j REJECT --reject-with nosuch",
        "-A INPUT -j LOG --log-level loud",
        "-A INPUT -j ACCEPT --reject-with tcp-reset",
        "-A INPUT --nosuch 1",
        "-A INPUT -p",
        "-A INPUT stray",
    ];
    let nat = [
        "-A PREROUTING -j DNAT",
        "-A POSTROUTING -j SNAT",
        "-A PREROUTING -j DNAT --to-destination 10.0.0.1:80",
        "-A PREROUTING -p tcp -j DNAT --to-destination 10.0.0.1:70000",
        "-A PREROUTING -j REDIRECT --to-ports 80",
        "-A PREROUTING -p tcp -j REDIRECT --to-ports 90-80",
        "-A POSTROUTING -p tcp -j MASQUERADE --to-ports x",
        "-A POSTROUTING -j NETMAP",
        "-A PREROUTING -j DROP",
    ];
    let mangle = [
        "-A PREROUTING -j MARK",
        "-A PREROUTING -j MARK --set-mark x",
    ];
    let mut wrong: Vec<String> = Vec::new();
    let all = filter.iter().map(|rule| ("filter", rule));
    let all = all.chain(nat.iter().map(|rule| ("nat", rule)));
    for (table, rule) in all.chain(mangle.iter().map(|rule| ("mangle", rule))) {
        let text = format!("*{table}\n{rule}\nCOMMIT\n");
        let ours = Ruleset::parse("rules.conf", &text);
        match (ours.is_err(), namespace.objection(&text).is_some()) {
            (true, true) => {}
            (ours, theirs) => {
                wrong.push(format!(
                    "{rule}: refused by us {ours}, by iptables {theirs}"
                ));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}
