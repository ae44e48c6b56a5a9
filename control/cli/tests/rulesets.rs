//! From files to rules in force and back: what people see, what programs see, every error.

mod control;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use control::{Daemon, RULES, is_missing};
use insta::assert_snapshot;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use protocol::{
    ExplainStep, Explanation, LogEntry, LogKind, LogPacket, Probe, Reply, Request, RuleChain,
    RuleRow, RuleTable, Rules, Service, Zone, ZoneMatrix, ZoneReach,
};

const INPUT: &str = "# The rules.
*tproxy
:PREROUTING ACCEPT [0:0]
:PRintra - [0:0]
-A PREROUTING -i INTRA -j PRintra
-A PRintra -s CLIENTS -p tcp -m tcp --dport 80 -j TPROXY --on-port 50080
COMMIT
";

const MACROS: &str = "#define INTRA eth1
#define CLIENTS 192.168.1.0/24 \\
                192.168.2.0/24
";

#[test]
fn gen_makes_a_ruleset_and_shows_the_difference() {
    let daemon = Daemon::start();
    daemon.put("iptables.conf.in", INPUT);
    daemon.put("iptables.conf.var", MACROS);
    let first = daemon.prints(daemon.rules(&["gen"]));
    let made = daemon.rules_dir.path().join("iptables.conf.new");
    assert_snapshot!("made", fs::read_to_string(&made).unwrap());
    daemon.put(
        "iptables.conf",
        &INPUT
            .replace("CLIENTS", "192.168.1.0/24")
            .replace("INTRA", "eth1"),
    );
    let second = daemon.prints(daemon.rules(&["gen"]));
    let mut command = daemon.rules(&["gen"]);
    command.arg("--json");
    let document: serde_json::Value = serde_json::from_str(&daemon.prints(command)).unwrap();
    assert_eq!(
        (&document["added"], &document["removed"]),
        (&1.into(), &0.into())
    );
    assert_eq!(
        (&document["rules"], &document["macros"]),
        (&3.into(), &2.into())
    );
    fs::copy(&made, daemon.rules_dir.path().join("iptables.conf")).unwrap();
    let third = daemon.prints(daemon.rules(&["gen"]));
    assert_snapshot!("gen", [first, second, third].join("----\n"));
    assert_eq!(daemon.state().asked, []);
    // Nothing but the four files is left behind.
    assert_eq!(fs::read_dir(daemon.rules_dir.path()).unwrap().count(), 4);
}

#[test]
fn gen_warns_of_what_is_probably_not_meant() {
    let daemon = Daemon::start();
    let extra =
        "-A PRintra ! -s CLIENTS -j RETURN\n-A PRintra --dport CLIENTS_PORTS -j ACCEPT\nCOMMIT";
    daemon.put("iptables.conf.in", &INPUT.replace("COMMIT", extra));
    let ports = "#define CLIENTS_PORTS 80 81\n#define UNUSED 1\n#define ESTABLISHED NEW\n";
    daemon.put("iptables.conf.var", &format!("{MACROS}{ports}"));
    let (_, stderr, code) = daemon.outcome(daemon.rules(&["gen"]));
    assert_eq!(code, 0, "{stderr}");
    assert_snapshot!("gen_warnings", stderr);
}

#[test]
fn gen_only_counts_what_is_too_long_to_read() {
    let daemon = Daemon::start();
    daemon.put("iptables.conf.in", RULES);
    let many: String = (0..20_001).map(|n| format!("# {n}\n")).collect();
    daemon.put("iptables.conf", &(many + RULES));
    let printed = daemon.prints(daemon.rules(&["gen"]));
    assert_eq!(printed.lines().count(), 1, "{printed}");
    assert!(printed.contains("0 added, 20001 removed, too many to show"));
    let mut command = daemon.rules(&["gen"]);
    command.arg("--json");
    let document: serde_json::Value = serde_json::from_str(&daemon.prints(command)).unwrap();
    assert_eq!(document["removed"], 20_001);
    assert_eq!(document["diff"], serde_json::Value::Null);
}

#[test]
fn gen_refuses_in_the_words_of_what_is_edited() {
    let daemon = Daemon::start();
    let mut told = String::new();
    let mut refuse = |input: &str, macros: &str| {
        daemon.put("iptables.conf.in", input);
        daemon.put("iptables.conf.var", macros);
        let (stdout, stderr, code) = daemon.outcome(daemon.rules(&["gen"]));
        assert_eq!((stdout.as_str(), code), ("", 1), "{stderr}");
        told += &stderr;
        assert!(is_missing(
            &daemon.rules_dir.path().join("iptables.conf.new")
        ));
    };
    refuse(&INPUT.replace("CLIENTS", "CLIENT"), MACROS);
    refuse(INPUT, &MACROS.replace("192.168.2.0/24", "192.168.2.0/42"));
    refuse(&INPUT.replace("-j PRintra", "-j PRinter"), MACROS);
    refuse(&INPUT.replace("COMMIT", ":PRintra -\nCOMMIT"), MACROS);
    refuse(INPUT, "#define INTRA INTRA");
    refuse(INPUT, "#define INTRA eth1\n#define INTRA eth2");
    refuse(INPUT, "INTRA eth1");
    let many: String = (0..1100)
        .map(|n| format!(" 10.0.{}.{}", n / 256, n % 256))
        .collect();
    let input = INPUT.replace("-s CLIENTS", "-s CLIENTS -d SERVERS");
    refuse(
        &input,
        &format!("#define INTRA e\n#define CLIENTS{many}\n#define SERVERS{many}"),
    );
    fs::write(
        daemon.rules_dir.path().join("iptables.conf.in"),
        b"*tproxy\n# \xff\n",
    )
    .unwrap();
    told += &daemon.outcome(daemon.rules(&["gen"])).1;
    fs::remove_file(daemon.rules_dir.path().join("iptables.conf.in")).unwrap();
    told += &daemon.outcome(daemon.rules(&["gen"])).1;
    told += &daemon
        .outcome(daemon.xtproxy(&["rules", "gen", "--dir", "/nowhere/at/all"]))
        .1;
    assert_snapshot!("gen_errors", told);
}

#[test]
fn a_failed_gen_leaves_the_former_result() {
    let daemon = Daemon::start();
    let made = daemon.put("iptables.conf.new", RULES);
    daemon.put("iptables.conf.in", "*tproxy\n");
    assert_eq!(daemon.outcome(daemon.rules(&["gen"])).2, 1);
    assert_eq!(fs::read_to_string(made).unwrap(), RULES);
}

#[test]
fn commit_replaces_and_loads() {
    let daemon = Daemon::start();
    let made = daemon.put("iptables.conf.new", RULES);
    let sets = daemon.put("ipset.conf", "");
    let current = daemon.rules_dir.path().join("iptables.conf");
    daemon.state().begun_with = Some(current.display().to_string());
    let text = daemon.prints(daemon.rules(&["commit"]));
    assert_eq!(text, "DIR/iptables.conf: 2 rules in force, generation 5\n");
    assert_eq!(fs::read_to_string(&current).unwrap(), RULES);
    let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let load = Request::RulesLoad {
        ruleset: path(&made),
        sets: Some(path(&sets)),
        try_ms: None,
        replace: Some(path(&current)),
    };
    assert_eq!(daemon.asked(), [load]);
    let mut command = daemon.rules(&["commit"]);
    command.arg("--json");
    let document: serde_json::Value = serde_json::from_str(&daemon.prints(command)).unwrap();
    assert_eq!(document["loaded"]["generation"], 6);
}

#[test]
fn commit_says_what_the_administrator_may_have_forgotten() {
    let daemon = Daemon::start();
    daemon.put("iptables.conf.new", RULES);
    let input = daemon.put("iptables.conf.in", INPUT);
    let later = SystemTime::now() + Duration::from_secs(60);
    let input = fs::File::options().append(true).open(input).unwrap();
    input.set_modified(later).unwrap();
    let (_, without, _) = daemon.outcome(daemon.rules(&["commit"]));
    daemon.state().begun_with = Some("/etc/other.conf".into());
    let (_, other, code) = daemon.outcome(daemon.rules(&["commit"]));
    assert_eq!(code, 0);
    assert_snapshot!("commit_warnings", format!("{without}{other}"));
}

#[test]
fn what_cannot_be_done_is_told() {
    let daemon = Daemon::start();
    let mut told = String::new();
    let mut fail = |command| {
        let (stdout, stderr, code) = daemon.outcome(command);
        assert_eq!((stdout.as_str(), code), ("", 1), "{stderr}");
        told += &stderr;
    };
    for command in ["test", "commit", "check"] {
        fail(daemon.rules(&[command]));
    }
    daemon.put("iptables.conf.new", "BROKEN");
    for command in ["test", "commit", "check"] {
        fail(daemon.rules(&[command]));
    }
    fail(daemon.rules(&["check", "/nowhere/rules"]));
    daemon.state().answers = vec![Reply::Done];
    fail(daemon.xtproxy(&["rules", "show"]));
    fail(daemon.xtproxy(&["zones"]));
    fail(daemon.xtproxy(&["log"]));
    let mut elsewhere = daemon.xtproxy(&["rules", "save"]);
    elsewhere.args(["--runtime-dir", "/nowhere"]);
    fail(elsewhere);
    assert_eq!(daemon.state().generation, 4);
    assert!(is_missing(&daemon.rules_dir.path().join("iptables.conf")));
    assert_snapshot!("failures", told);
}

#[test]
fn check_changes_nothing() {
    let daemon = Daemon::start();
    daemon.put("iptables.conf.new", RULES);
    let (stdout, stderr, code) = daemon.outcome(daemon.rules(&["check"]));
    assert_eq!(code, 0);
    assert_snapshot!("check", format!("{stdout}{stderr}"));
    assert_eq!(daemon.state().generation, 4);
    assert!(matches!(daemon.asked()[..], [Request::RulesCheck { .. }]));
}

fn row(line: u32, packets: u64, text: &str, columns: [&str; 8]) -> RuleRow {
    let [
        target,
        prot,
        opt,
        inward,
        outward,
        source,
        destination,
        extra,
    ] = columns.map(String::from);
    RuleRow {
        line,
        packets,
        bytes: packets * 60,
        text: text.into(),
        target,
        prot,
        opt,
        in_interface: inward,
        out_interface: outward,
        source,
        destination,
        extra,
    }
}

/// Rules in force, in two pages.
fn pages() -> Vec<Reply> {
    let jump = [
        "PRintra",
        "all",
        "--",
        "eth1",
        "*",
        "0.0.0.0/0",
        "!192.168.1.1",
        "",
    ];
    let web = [
        "TPROXY",
        "tcp",
        "--",
        "*",
        "*",
        "0.0.0.0/0",
        "0.0.0.0/0",
        "tcp dpt:80 TPROXY redirect 0.0.0.0:50080",
    ];
    let mark = [
        "MARK",
        "all",
        "-f",
        "*",
        "eth+",
        "10.0.0.0/8",
        "0.0.0.0/0",
        "MARK set 0x1",
    ];
    let rows = [
        row(6, 12, "-i eth1 ! -d 192.168.1.1/32 -j PRintra", jump),
        row(
            7,
            1_234_567,
            "-p tcp -m tcp --dport 80 -j TPROXY --on-port 50080",
            web,
        ),
        row(
            12,
            0,
            "-s 10.0.0.0/8 -o eth+ -f -j MARK --set-xmark 0x1/0xffffffff",
            mark,
        ),
    ];
    let [jump, web, mark] = rows;
    let built_in = |name: &str, rules| RuleChain {
        name: name.into(),
        policy: Some("ACCEPT".into()),
        packets: 99_999,
        bytes: 123_456_789,
        references: 0,
        rules,
    };
    let user = RuleChain {
        name: "PRintra".into(),
        references: 1,
        rules: vec![web],
        ..RuleChain::default()
    };
    let rules = Rules {
        generation: 4,
        tables: vec![
            RuleTable {
                name: "tproxy".into(),
                chains: vec![built_in("PREROUTING", vec![jump]), user],
            },
            RuleTable {
                name: "mangle".into(),
                chains: vec![built_in("POSTROUTING", vec![mark])],
            },
        ],
    };
    let pages = rules.pages(2);
    let last = pages.len() - 1;
    let reply = |(at, rules)| Reply::Rules {
        rules,
        more: at < last,
    };
    pages.into_iter().enumerate().map(reply).collect()
}

#[test]
fn show_is_like_iptables() {
    let daemon = Daemon::start();
    daemon.state().answers = pages();
    assert_eq!(pages().len(), 2);
    assert_snapshot!("show", daemon.prints(daemon.xtproxy(&["rules", "show"])));
    let numbers = [
        "rules",
        "show",
        "--line-numbers",
        "--exact",
        "--table",
        "tproxy",
    ];
    assert_snapshot!("show_numbers", daemon.prints(daemon.xtproxy(&numbers)));
    let document = daemon.prints(daemon.xtproxy(&["--json", "rules", "show", "-t", "mangle"]));
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(
        document["tables"][0]["chains"][0]["rules"][0]["out_interface"],
        "eth+"
    );
    assert_eq!(document["tables"].as_array().unwrap().len(), 1);
    let none = daemon.prints(daemon.xtproxy(&["rules", "show", "-t", "raw"]));
    assert_eq!(none, "generation 4\nno rules\n");
}

#[test]
fn save_is_like_iptables_save() {
    let daemon = Daemon::start();
    daemon.state().answers = pages();
    let text = daemon.prints(daemon.xtproxy(&["rules", "save"]));
    assert_snapshot!("save", text);
    let tproxy = daemon.prints(daemon.xtproxy(&["rules", "save", "--table", "tproxy"]));
    // What it prints is a ruleset again.
    daemon.put("iptables.conf.in", &tproxy);
    daemon.prints(daemon.rules(&["gen"]));
}

#[test]
fn explain_is_a_table_of_steps() {
    let daemon = Daemon::start();
    let step = |chain: &str, line, text: &str, action: &str| ExplainStep {
        table: "tproxy".into(),
        chain: chain.into(),
        line,
        text: text.into(),
        action: action.into(),
    };
    let explanation = Explanation {
        steps: vec![
            step("PREROUTING", Some(6), "-i eth1 -j PRintra", "jump PRintra"),
            step(
                "PRintra",
                Some(7),
                "-p tcp -m tcp --dport 80 -j TPROXY --on-port 50080",
                "redirect",
            ),
        ],
        verdict: "redirected".into(),
        proxy: Some("192.168.1.1:50080".into()),
        note: Some("zone intra to zone inter, service intra_http: allowed".into()),
    };
    daemon.state().answers = vec![Reply::Explained(explanation)];
    let ask = [
        "rules",
        "explain",
        "--in",
        "eth1",
        "--src",
        "192.168.1.9:40000",
        "--dst",
        "1.2.3.4:80",
        "--proto",
        "6",
        "--state",
        "NEW",
        "--mark",
        "0x10",
    ];
    assert_snapshot!("explain", daemon.prints(daemon.xtproxy(&ask)));
    let packet = Probe {
        in_interface: Some("eth1".into()),
        src: "192.168.1.9:40000".into(),
        dst: "1.2.3.4:80".into(),
        proto: "tcp".into(),
        state: Some("new".into()),
        mark: Some(16),
        ..Probe::default()
    };
    assert_eq!(daemon.asked(), [Request::RulesExplain { packet }]);
    let policy = Explanation {
        steps: vec![step("FORWARD", None, "", "policy DROP")],
        verdict: "dropped".into(),
        ..Explanation::default()
    };
    daemon.state().answers = vec![Reply::Explained(policy)];
    assert_snapshot!("explain_policy", daemon.prints(daemon.xtproxy(&ask)));
    let document = daemon.prints(daemon.xtproxy(&[&["--json"], &ask[..]].concat()));
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["verdict"], "dropped");
}

#[test]
fn zones_are_a_matrix() {
    let daemon = Daemon::start();
    let zone = |name: &str, network: &str, outbound: Option<&[&str]>| Zone {
        name: name.into(),
        networks: vec![network.into()],
        inbound: (name == "intra").then(Vec::new),
        outbound: outbound.map(|names| names.iter().map(ToString::to_string).collect()),
        ..Zone::default()
    };
    let guests = Zone {
        parent: Some("intra".into()),
        interfaces: vec!["eth3".into(), "eth4".into()],
        ..zone("guests", "192.168.7.0/24", Some(&["http"]))
    };
    let reach = |from: Option<&str>, to: &str, services: &[&str]| ZoneReach {
        from: from.map(str::to_owned),
        to: Some(to.into()),
        services: services.iter().map(ToString::to_string).collect(),
    };
    let matrix = ZoneMatrix {
        zones: vec![zone("intra", "192.168.1.0/24", None), guests],
        services: vec![Service {
            name: "http".into(),
            proxy: "192.168.1.1:50080".into(),
        }],
        reach: vec![
            reach(Some("intra"), "intra", &[]),
            reach(Some("intra"), "guests", &["*"]),
            reach(Some("guests"), "intra", &[]),
            reach(Some("guests"), "guests", &["http", "ftp"]),
            reach(None, "intra", &[]),
            reach(None, "guests", &["*"]),
        ],
    };
    daemon.state().answers = vec![Reply::Zones(matrix)];
    assert_snapshot!("zones", daemon.prints(daemon.xtproxy(&["zones"])));
    let document = daemon.prints(daemon.xtproxy(&["--json", "zones"]));
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document["reach"][4]["from"], serde_json::Value::Null);
    daemon.state().answers = vec![Reply::Zones(ZoneMatrix::default())];
    let none = daemon.prints(daemon.xtproxy(&["zones"]));
    assert_eq!(none, "no zones: a proxied connection may go anywhere\n");
}

fn entry(kind: LogKind, prefix: &str) -> LogEntry {
    LogEntry {
        at_ns: 1_700_000_000_123_456_789,
        kind,
        prefix: prefix.into(),
        count: 1,
        in_interface: Some("eth1".into()),
        from_zone: Some("intra".into()),
        packet: Some(LogPacket {
            mac: None,
            src: [192, 168, 1, 9].into(),
            dst: [1, 2, 3, 4].into(),
            length: 60,
            tos: 0,
            ttl: 64,
            id: 7,
            is_df: true,
            is_mf: false,
            fragment: 0,
            proto: "tcp".into(),
            sport: Some(40_000),
            dport: Some(80),
            window: Some(64_240),
            tcp_flags: Some(2),
            icmp_type: None,
            icmp_code: None,
        }),
        ..LogEntry::default()
    }
}

fn log(more: bool) -> Vec<Reply> {
    let first = vec![entry(LogKind::Rule, "LOintra: "), entry(LogKind::Zone, "")];
    let last = vec![entry(LogKind::Drop, "input_denied")];
    let page = |entries, more| Reply::Log { entries, more };
    vec![page(first, true), page(Vec::new(), true), page(last, more)]
}

#[test]
fn log_lines_are_like_the_kernels() {
    let daemon = Daemon::start();
    daemon.state().answers = log(false);
    assert_snapshot!(
        "log",
        daemon.prints(daemon.xtproxy(&["log", "--tail", "3"]))
    );
    let tail = Request::Log {
        tail: 3,
        follow: false,
    };
    assert_eq!(daemon.asked(), [tail]);
    let document = daemon.prints(daemon.xtproxy(&["--json", "log"]));
    let document: serde_json::Value = serde_json::from_str(&document).unwrap();
    assert_eq!(document.as_array().unwrap().len(), 3);
}

#[test]
fn the_log_is_followed_until_a_signal() {
    let daemon = Daemon::start();
    daemon.state().answers = log(true);
    let mut command = daemon.xtproxy(&["--json", "log", "--follow"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for kind in ["rule", "zone", "drop"] {
        let line = lines.next().unwrap().unwrap();
        let document: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(document["kind"], kind);
    }
    kill(
        Pid::from_raw(child.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(lines.next().is_none());
}

#[test]
fn help_teaches() {
    let daemon = Daemon::start();
    for words in [
        &["rules"][..],
        &["rules", "gen"],
        &["rules", "test"],
        &["rules", "commit"],
        &["rules", "check"],
        &["rules", "show"],
        &["rules", "save"],
        &["rules", "explain"],
        &["zones"],
        &["log"],
    ] {
        let mut command = daemon.xtproxy(words);
        command.arg("--help");
        assert_snapshot!(format!("help_{}", words.join("_")), daemon.prints(command));
    }
}

#[test]
fn usage_is_told() {
    let daemon = Daemon::start();
    let mistakes: [&[&str]; 8] = [
        &["rules"],
        &["rules", "tset"],
        &["rules", "test", "--timeout", "0"],
        &["rules", "test", "--timeout", "soon"],
        &["rules", "show", "--table", "nta"],
        &[
            "rules",
            "explain",
            "--src",
            "1.2.3.4",
            "--dst",
            "1.2.3.4:5",
            "--proto",
            "tcp",
        ],
        &[
            "rules",
            "explain",
            "--src",
            "1.2.3.4:1",
            "--dst",
            "::1",
            "--proto",
            "tcp",
        ],
        &[
            "rules",
            "explain",
            "--src",
            "1.2.3.4:1",
            "--dst",
            "1.2.3.4:1",
            "--proto",
            "300",
        ],
    ];
    let mut told = String::new();
    for words in mistakes {
        let (stdout, stderr, code) = daemon.outcome(daemon.xtproxy(words));
        assert_eq!((stdout.as_str(), code), ("", 2), "{words:?}");
        told += &format!("$ xtproxy {}\n{stderr}\n", words.join(" "));
    }
    assert_snapshot!("usage", told);
}
