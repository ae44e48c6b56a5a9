//! A transit connection reaches a local proxy, and the client believes that it talks to the server.

use std::io::Write;
use std::net::SocketAddrV4;
use std::thread;
use std::time::Duration;

use anyhow::Result;
use e2e::{RELAY, Script, Stage, in_both_modes, play, server};
use lab::command::run;
use lab::connection::{Digest, exchange, finish, read_line, reset};
use lab::peer::Ending;
use lab::topology::{CLIENT, FW_INTER, SERVER, SERVER_TWO};
use lab::web::{PAGE, curl, fetch_page, fetch_sha256};
use lab::{Behaviour, Mode, Offloads, Plan};

in_both_modes! {
    page,
    large_file,
    large_file_without_offloads,
    large_file_with_merging,
    upload,
    upload_without_offloads,
    thousand_connections,
    keep_alive,
    idle_minute,
    client_closes_first,
    server_closes_first,
    client_resets,
    server_resets,
    one_source_port_two_servers,
    nobody_listens,
}

fn with_offloads(mode: Mode, offloads: Offloads) -> Script {
    let mut script = Script::new(mode);
    script.plan.offloads = offloads;
    script
}

fn page(mode: Mode) {
    let reports = play(&Script::new(mode), |stage| {
        assert_eq!(fetch_page(&stage.lab.client, SERVER)?, PAGE);
        let accesses = stage.web.accesses()?;
        assert_eq!(accesses.len(), 1);
        // Not routed: the proxy asked, with the firewall's address.
        assert_eq!(*accesses[0].client.ip(), FW_INTER);
        stage.relays[0].wait_line(&["192.168.1.10:", "198.51.100.10:80"])?;
        Ok(())
    });
    assert!(reports.client.count("tcp") >= 4, "{reports:?}");
    assert!(reports.server.count("tcp") >= 4, "{reports:?}");
}

fn large_file(mode: Mode) {
    download(mode, Offloads::Usual, 200_000_000);
}

fn large_file_without_offloads(mode: Mode) {
    download(mode, Offloads::None, 200_000_000);
}

fn large_file_with_merging(mode: Mode) {
    download(mode, Offloads::All, 200_000_000);
}

fn download(mode: Mode, offloads: Offloads, bytes: u64) {
    let reports = play(&with_offloads(mode, offloads), |stage| {
        let sum = stage.web.add_random("large", bytes)?;
        let came = fetch_sha256(&stage.lab.client, SERVER, "large", stage.lab.dir())?;
        assert_eq!(came, sum);
        Ok(())
    });
    assert!(reports.client.count("tcp") > 1000, "{reports:?}");
}

fn upload(mode: Mode) {
    send_much(mode, Offloads::Usual);
}

fn upload_without_offloads(mode: Mode) {
    send_much(mode, Offloads::None);
}

/// The way up is the one on which a generic card meets packets that the client has not segmented.
fn send_much(mode: Mode, offloads: Offloads) {
    play(&with_offloads(mode, offloads), |stage| {
        let _peer = stage.peer(7000, Behaviour::Digest)?;
        let mut stream = stage.connect(server(7000))?;
        let mut digest = Digest::default();
        let mut block = vec![0; 100_000];
        for round in 0..400_u32 {
            for (at, byte) in block.iter_mut().enumerate() {
                *byte = (at as u32)
                    .wrapping_mul(2_654_435_761 ^ round)
                    .to_be_bytes()[0];
            }
            digest.add(&block);
            stream.write_all(&block)?;
        }
        assert_eq!(finish(&stream)?, digest.to_string().as_bytes());
        // What the client has not segmented must not reach the host port as it is: that drops
        // it, and the connection crawls on retransmissions.
        let link = stage.lab.fw.run("ip -s -j link show xtp0-dp")?;
        let link: serde_json::Value = serde_json::from_str(&link)?;
        assert_eq!(link[0]["stats64"]["tx"]["dropped"], 0, "{link}");
        Ok(())
    });
}

fn thousand_connections(mode: Mode) {
    let mut script = Script::new(mode);
    script.plan.queues = 2;
    play(&script, |stage| {
        let urls = format!("http://{SERVER}/page.html?[1-1000]");
        let mut command = curl(&stage.lab.client);
        command.args([
            "--parallel",
            "--parallel-immediate",
            "--parallel-max",
            "100",
        ]);
        command.args(["--header", "Connection: close", "--output", "/dev/null"]);
        command.args(["--write-out", "%{http_code} %{size_download}\\n", &urls]);
        let answers = run(&mut command)?;
        let right = format!("200 {}", PAGE.len());
        assert_eq!(answers.lines().filter(|line| *line == right).count(), 1000);
        assert_eq!(stage.web.accesses()?.len(), 1000);
        assert_eq!(stage.web.connections()?, 1000);
        Ok(())
    });
}

fn keep_alive(mode: Mode) {
    play(&Script::new(mode), |stage| {
        let url = format!("http://{SERVER}/page.html?[1-20]");
        let answer = run(curl(&stage.lab.client).arg(url))?;
        assert_eq!(answer, PAGE.repeat(20));
        assert_eq!(stage.web.accesses()?.len(), 20);
        assert_eq!(stage.web.connections()?, 1);
        Ok(())
    });
}

fn idle_minute(mode: Mode) {
    let mut script = Script::new(mode);
    script.plan = Plan {
        idle: true,
        ..Plan::default()
    };
    play(&script, |stage| {
        let _peer = stage.peer(7000, Behaviour::Echo)?;
        let stream = stage.connect(server(7000))?;
        assert_eq!(exchange(&stream, "before")?, "before");
        thread::sleep(Duration::from_secs(60));
        assert_eq!(exchange(&stream, "after")?, "after");
        Ok(())
    });
}

fn client_closes_first(mode: Mode) {
    play(&Script::new(mode), |stage| {
        let peer = stage.peer(7000, Behaviour::Digest)?;
        let mut stream = stage.connect(server(7000))?;
        stream.write_all(b"the question")?;
        // The answer comes only after the client's side is closed.
        let mut expected = Digest::default();
        expected.add(b"the question");
        assert_eq!(finish(&stream)?, expected.to_string().as_bytes());
        assert_eq!(peer.wait_ended(1)?[0].ending, Ending::Closed);
        Ok(())
    });
}

fn server_closes_first(mode: Mode) {
    play(&Script::new(mode), |stage| {
        let peer = stage.peer(7000, Behaviour::EarlyBye)?;
        let mut stream = stage.connect(server(7000))?;
        assert_eq!(read_line(&stream)?, "bye");
        // The other direction goes on after the server's FIN.
        thread::sleep(Duration::from_millis(300));
        stream.write_all(&[b'x'; 50_000])?;
        assert_eq!(finish(&stream)?, b"");
        let visit = peer.wait_ended(1)?[0];
        assert_eq!((visit.ending, visit.digest.bytes), (Ending::Closed, 50_000));
        Ok(())
    });
}

fn client_resets(mode: Mode) {
    play(&Script::new(mode), |stage| {
        let peer = stage.peer(7000, Behaviour::Echo)?;
        let stream = stage.connect(server(7000))?;
        assert_eq!(exchange(&stream, "hello")?, "hello");
        reset(stream)?;
        assert_eq!(peer.wait_ended(1)?[0].ending, Ending::Reset);
        no_live_flow(stage)
    });
}

fn server_resets(mode: Mode) {
    play(&Script::new(mode), |stage| {
        let _peer = stage.peer(7000, Behaviour::Reset)?;
        let stream = stage.connect(server(7000))?;
        let error = exchange(&stream, "hello").expect_err("the server reset the connection");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        no_live_flow(stage)
    });
}

/// After a reset no flow may stay established.
fn no_live_flow(stage: &Stage) -> Result<()> {
    stage.daemon.wait_until("the flow has ended", |daemon| {
        let flows = daemon.flows(&["--state", "established"])?;
        Ok(flows.is_empty())
    })
}

fn one_source_port_two_servers(mode: Mode) {
    play(&Script::new(mode), |stage| {
        let second = SocketAddrV4::new(SERVER_TWO, 7000);
        let _one = stage.peer(7000, Behaviour::Echo)?;
        let _two = lab::Peer::listen(&stage.lab.server, second, Behaviour::Digest)?;
        let from = SocketAddrV4::new(CLIENT, 41_000);
        let to_one = stage.connect_from(from, server(7000))?;
        let mut to_two = stage.connect_from(from, second)?;
        assert_eq!(exchange(&to_one, "one")?, "one");
        to_two.write_all(b"two")?;
        assert_eq!(exchange(&to_one, "still one")?, "still one");
        let mut expected = Digest::default();
        expected.add(b"two");
        assert_eq!(finish(&to_two)?, expected.to_string().as_bytes());
        // The relay knows the true addresses of both, although it sees another port for one.
        drop(to_one);
        for to in [server(7000), second] {
            stage.relays[0].wait_line(&[&from.to_string(), &to.to_string()])?;
        }
        Ok(())
    });
}

fn nobody_listens(mode: Mode) {
    let script = Script::new(mode).with_relays(&[]);
    let reports = play(&script, |stage| {
        // What the kernel refuses with must not show where it came from.
        stage.client_link.proxies.insert(RELAY);
        let error = stage.connect(server(80)).expect_err("nobody listens");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
        assert!(stage.web.accesses()?.is_empty());
        Ok(())
    });
    assert_eq!(reports.server.count("tcp"), 0, "{reports:?}");
}
