//! The words of FTP, hostile ones included.

#![allow(
    dead_code,
    reason = "the parts that talk have no use for the rest here"
)]

mod command;
mod line;
mod reply;
mod turns;
mod urgent;

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use command::{Command, Form, comma_separated, objection};
use line::{LINE_MOST_BYTES, Lines};
use proptest::prelude::*;
use reply::{Part, Replies, extended_passive, harmless, passive};
use tokio::io::AsyncWriteExt;
use turns::{Turn, Turns};
use urgent::{Reader, interrupt};

fn at(text: &str) -> SocketAddrV4 {
    text.parse().unwrap()
}

fn is_refused(line: &[u8], code: &str) -> bool {
    matches!(Command::parse(line), Command::Refused(answer) if answer.starts_with(code))
}

fn passed(line: &[u8], is_urgent: bool) -> Command {
    let line = line.to_vec();
    Command::Passed { line, is_urgent }
}

#[test]
fn data_addresses_are_read() {
    for (line, form) in [
        ("PORT 10,1,0,2,4,1", Form::Port),
        ("port  10,1,0,2,4,1 ", Form::Port),
        ("EPRT |1|10.1.0.2|1025|", Form::Eprt),
        ("eprt !1!10.1.0.2!1025!", Form::Eprt),
    ] {
        let at = at("10.1.0.2:1025");
        assert_eq!(
            Command::parse(line.as_bytes()),
            Command::Active { form, at },
            "{line}"
        );
    }
}

#[test]
fn what_is_no_data_address_is_answered() {
    for line in [
        "PORT",
        "PORT ",
        "PORT 1,2,3,4,5",
        "PORT 1,2,3,4,5,6,7",
        "PORT 256,2,3,4,5,6",
        "PORT +1,2,3,4,5,6",
        "PORT 1,2,3,4,0,0",
        "PORT 1,2,3,4,5,",
        "PORT 1;2;3;4;5;6",
        "PORT 1,2,3,4,5,6\u{661}",
        "EPRT",
        "EPRT |1|10.1.0.2|1025",
        "EPRT |1|10.1.0.2|65536|",
        "EPRT |1|10.1.0|1025|",
        "EPRT |1|10.1.0.2|1025|x|",
        "EPRT |1||1025|",
        "EPRT 1|10.1.0.2|1025|",
    ] {
        assert!(is_refused(line.as_bytes(), "501"), "{line}");
    }
    assert!(is_refused(b"PORT \xff\xfe", "501"));
    assert!(is_refused(b"EPRT |2|2001:db8::1|1025|", "522"));
}

#[test]
fn only_the_clients_own_high_ports_may_be_named() {
    let client = Ipv4Addr::new(10, 1, 0, 2);
    assert_eq!(objection(at("10.1.0.2:1024"), client), None);
    assert!(
        objection(at("10.1.0.3:1024"), client)
            .unwrap()
            .starts_with("500")
    );
    assert!(
        objection(at("10.1.0.2:1023"), client)
            .unwrap()
            .starts_with("504")
    );
    assert!(
        objection(at("10.1.0.2:0"), client)
            .unwrap()
            .starts_with("504")
    );
}

#[test]
fn what_would_hide_data_addresses_is_refused() {
    for line in [
        "AUTH TLS",
        "auth ssl",
        "PROT P",
        "PBSZ 0",
        "CCC",
        "LPRT 4,4,1,2,3,4,2,4,1",
        "LPSV",
        "CPSV",
    ] {
        assert!(is_refused(line.as_bytes(), "502"), "{line}");
    }
    assert_eq!(Command::parse(b"AUTHOR x"), passed(b"AUTHOR x", false));
    assert_eq!(Command::parse(b"RETR AUTH"), passed(b"RETR AUTH", false));
}

#[test]
fn control_characters_are_refused() {
    for line in [
        &b"RETR a\rPORT 10,9,9,9,4,1"[..],
        b"RETR a\0b",
        b"PORT 10,1,0,2,4,1\r",
        b"\r",
    ] {
        assert!(is_refused(line, "500"), "{line:?}");
    }
}

#[test]
fn telnet_is_taken_out_and_an_interrupt_is_noticed() {
    for line in [
        &b"\xff\xf4\xff\xf2ABOR"[..],
        b"\xff\xf4ABOR",
        b"ABOR\xff\xf4",
    ] {
        assert_eq!(Command::parse(line), passed(b"ABOR", true), "{line:?}");
    }
    assert_eq!(Command::parse(b"\xff\xfd\x06NOOP"), passed(b"NOOP", false));
    assert_eq!(Command::parse(b"NO\xff\xf1OP"), passed(b"NOOP", false));
    // Letters of an old alphabet: one that a client has doubled, and one that it has not.
    assert_eq!(
        Command::parse(b"RETR \xff\xffx"),
        passed(b"RETR \xff\xffx", false)
    );
    assert_eq!(Command::parse(b"RETR \xffx"), passed(b"RETR \xffx", false));
    assert_eq!(Command::parse(b"ABOR\xff"), passed(b"ABOR\xff", false));
    assert!(matches!(Command::parse(b"PA\xff\xf1SV"), Command::Passive(line) if line == b"PASV"));
}

#[test]
fn passive_answers_are_read() {
    for line in [
        "227 Entering Passive Mode (10,2,0,2,4,1).",
        "227 =10,2,0,2,4,1",
        "227 I listen at 10,2,0,2,4,1",
        "227 On 1 of 2, (10,2,0,2,4,1)",
    ] {
        assert_eq!(
            passive(line.as_bytes()),
            Some(at("10.2.0.2:1025")),
            "{line}"
        );
    }
    for line in [
        "227",
        "227 ",
        "227 (1,2,3,4,5)",
        "227 (1,2,3,4,0,0)",
        "227 (1,2,3,4,5,256)",
        "22",
    ] {
        assert_eq!(passive(line.as_bytes()), None, "{line}");
    }
    assert_eq!(extended_passive(b"229 Extended (|||6446|)"), Some(6446));
    assert_eq!(extended_passive(b"229 Extended (!!!6446!) x"), Some(6446));
    for line in [
        "229",
        "229 (|||0|)",
        "229 (|||65536|)",
        "229 |||6446|",
        "229 (||1|6446|)",
        "229 (|1||6446|)",
        "229 ()",
    ] {
        assert_eq!(extended_passive(line.as_bytes()), None, "{line}");
    }
}

#[test]
fn replies_of_many_lines_end_where_they_say() {
    let mut replies = Replies::default();
    for (line, part) in [
        ("220-hello", Some(Part::More)),
        ("221 not this", Some(Part::More)),
        ("", Some(Part::More)),
        ("220-nor this", Some(Part::More)),
        ("220 now", Some(Part::Last(220))),
        ("150 it begins", Some(Part::More)),
        ("226", Some(Part::Last(226))),
        ("", None),
        ("2269 x", None),
        ("abc def", None),
        ("000 x", None),
        ("631 x", None),
        ("22", None),
    ] {
        assert_eq!(replies.take(line.as_bytes()), part, "{line}");
    }
    assert_eq!(harmless(b"200 a\r227 b\0".to_vec()), b"200 a 227 b ");
}

#[test]
fn own_answers_wait_for_the_servers() {
    let mut turns = Turns::new();
    turns.put(Turn::Other);
    turns.put(Turn::Own("502".into()));
    turns.put(Turn::Passive);
    assert_eq!(turns.own(), None);
    assert_eq!(turns.answered(220), Some(Turn::Other));
    assert_eq!(turns.own(), None);
    assert_eq!(turns.answered(331), Some(Turn::Other));
    assert_eq!(turns.own().as_deref(), Some("502"));
    assert_eq!(turns.own(), None);
    assert_eq!(turns.answered(227), Some(Turn::Passive));
    assert!(turns.is_empty());
    assert_eq!(turns.answered(421), None);
}

#[test]
fn one_reply_to_two_commands_is_made_up_for() {
    let mut turns = Turns::new();
    turns.put(Turn::Other);
    turns.put(Turn::Own("502".into()));
    turns.put(Turn::Passive);
    turns.put(Turn::Other);
    assert_eq!(turns.answered(229), Some(Turn::Passive));
    assert_eq!(turns.own().as_deref(), Some("502"));
    assert!(!turns.is_empty());
    // A server that nobody has asked.
    assert_eq!(turns.answered(227), Some(Turn::Other));
    assert!(turns.is_empty());
}

#[test]
fn commands_that_wait_are_bounded() {
    let mut turns = Turns::new();
    let put = (0..1000).take_while(|_| {
        turns.has_room() && {
            turns.put(Turn::Other);
            true
        }
    });
    assert!(put.count() < 100);
}

/// Reads all lines of what comes in pieces of this size.
fn lines(bytes: &[u8], piece: usize) -> (Vec<Vec<u8>>, bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut stream = in_pieces(bytes, piece);
        let mut lines = Lines::new(&mut stream);
        let mut all = Vec::new();
        loop {
            match lines.next().await {
                Ok(Some(line)) => all.push(line),
                Ok(None) => return (all, true),
                Err(_) => return (all, false),
            }
        }
    })
}

/// A reader that gives no more than `piece` bytes at once.
fn in_pieces(bytes: &[u8], piece: usize) -> impl tokio::io::AsyncRead + Unpin {
    use tokio::io::AsyncReadExt;
    let empty: Box<dyn tokio::io::AsyncRead + Unpin> = Box::new(tokio::io::empty());
    bytes.chunks(piece).rev().fold(empty, |rest, chunk| {
        Box::new(std::io::Cursor::new(chunk.to_vec()).chain(rest))
    })
}

#[test]
fn lines_are_bounded() {
    let long = [vec![b'x'; LINE_MOST_BYTES], b"\r\n".to_vec()].concat();
    assert_eq!(lines(&long, 1000).0, [vec![b'x'; LINE_MOST_BYTES]]);
    let endless = vec![b'x'; LINE_MOST_BYTES + 2000];
    assert_eq!(lines(&endless, 1000), (vec![], false));
}

#[test]
fn lines_end_by_lf() {
    let (all, ended) = lines(b"a\r\nb\n\r\r\n\ncut", 1);
    assert_eq!(all, [&b"a"[..], b"b", b"\r", b""]);
    assert!(ended);
}

#[tokio::test]
async fn an_interrupt_is_passed_on_with_what_follows() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sender = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
    let (sender, accepted) = tokio::join!(sender, listener.accept());
    let (_read, mut sender) = sender.unwrap().into_split();
    let (read, _write) = accepted.unwrap().0.into_split();
    let mut lines = Lines::new(Reader::new(read).unwrap());
    for _ in 0..3 {
        // All of it is there before the first byte is read: nothing wakes the reader again.
        interrupt(&mut sender).await.unwrap();
        sender.write_all(b"ABOR\r\nNOOP\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        for expected in [passed(b"ABOR", true), passed(b"NOOP", false)] {
            let line = tokio::time::timeout(Duration::from_secs(5), lines.next()).await;
            let line = line.expect("it waits for more").unwrap().unwrap();
            assert_eq!(Command::parse(&line), expected);
        }
    }
}

proptest! {
    #[test]
    fn addresses_survive_both_forms(ip: u32, port in 1_u16..) {
        let at = SocketAddrV4::new(ip.into(), port);
        for form in [Form::Port, Form::Eprt] {
            prop_assert_eq!(Command::parse(form.line(at).as_bytes()), Command::Active { form, at });
        }
        let line = format!("227 Entering Passive Mode ({}).", comma_separated(at));
        prop_assert_eq!(passive(line.as_bytes()), Some(at));
        let line = format!("229 Entering Extended Passive Mode (|||{port}|)");
        prop_assert_eq!(extended_passive(line.as_bytes()), Some(port));
    }

    #[test]
    fn nothing_passes_that_could_end_a_line(
        verb in "(|RETR |PORT |EPRT |PASV|\u{ff})", rest in prop::collection::vec(any::<u8>(), 0..60),
    ) {
        match Command::parse(&[verb.as_bytes(), &rest].concat()) {
            Command::Passed { line, .. } | Command::Passive(line) => {
                prop_assert!(!line.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')));
                // What a server reads is what was judged.
                let same = match Command::parse(&line) {
                    Command::Passed { line, .. } | Command::Passive(line) => line,
                    other => panic!("{other:?}"),
                };
                prop_assert_eq!(same, line);
            }
            Command::Active { at, .. } => prop_assert!(objection(at, *at.ip()).is_none() || at.port() < 1024),
            Command::Refused(answer) => prop_assert!(answer.starts_with('5')),
        }
    }

    #[test]
    fn no_reply_panics(code in "(227|229|150|220)[ -]?", rest in prop::collection::vec(any::<u8>(), 0..60)) {
        let line = harmless([code.as_bytes(), &rest].concat());
        prop_assert!(!line.contains(&b'\r'));
        let _ = (passive(&line), extended_passive(&line));
        let mut replies = Replies::default();
        if let Some(Part::Last(code)) = replies.take(&line) {
            prop_assert!((200..600).contains(&code));
        }
        let _ = replies.take(&rest);
    }

    #[test]
    fn lines_do_not_depend_on_how_they_come(
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'\r')], 0..200),
        piece in 1_usize..40,
    ) {
        prop_assert_eq!(lines(&bytes, piece), lines(&bytes, bytes.len().max(1)));
    }
}
