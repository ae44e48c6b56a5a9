//! `make demo`: a lab, a real web server, a real proxy and xtproxyd between them, and what
//! becomes of the addresses on each hop. Exit code 0 only if every step did what it says.

mod dmz;
mod ftp;
mod hops;
mod screen;
mod state;

use std::io::Write;
use std::net::{SocketAddrV4, TcpStream};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::{Parser, Subcommand};
use lab::command::run;
use lab::connection::{connect, read_line};
use lab::topology::{CLIENT, FW_INTRA, SERVER};
use lab::web::{PAGE, curl};
use lab::{Capture, Config, Daemon, Lab, Mode, Plan, Relay, Web, files};

use dmz::Dmz;
use ftp::Ftp;
use screen::{did, note, step};

/// The rules, as an administrator would write them.
const RULES: &str = "\
*tproxy
:PREROUTING ACCEPT [0:0]
:PRintra - [0:0]
:PRinter - [0:0]
-A PREROUTING -i eth1 ! -d 192.168.1.1 -j PRintra
-A PREROUTING -i eth2 -d 10.0.0.10 -j PRinter
-A PRintra -p tcp --dport 80 -j TPROXY --on-port 50080
-A PRintra -p tcp --dport 21 -j TPROXY --on-port 50021
-A PRinter -p tcp --dport 80 -j TPROXY --on-port 50081
COMMIT
";

/// Where the proxy listens.
const PROXY: SocketAddrV4 = SocketAddrV4::new(FW_INTRA, 50080);
/// The web server.
const WEB: SocketAddrV4 = SocketAddrV4::new(SERVER, 80);
/// Source port of the page's connection, so that it can be followed.
const PAGE_PORT: u16 = 40_001;
/// Size of the large file.
const LARGE: u64 = 128 << 20;
/// First part of the namespaces' names.
const NAME: &str = "xtdemo";

/// Shows a redirected connection from end to end.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Action>,
    /// Leave the lab standing.
    #[arg(long, env = "KEEP", value_parser = clap::builder::FalseyValueParser::new())]
    keep: bool,
    /// Run the XDP programs in generic mode.
    #[arg(long, env = "GENERIC", value_parser = clap::builder::FalseyValueParser::new())]
    generic: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Remove what an earlier demo left.
    Clean,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Some(Action::Clean) => state::clean(),
        None => demo(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            screen::failed(&error);
            ExitCode::FAILURE
        }
    }
}

/// What runs in the lab; dropped before it.
struct Cast {
    relay: Relay,
    daemon: Daemon,
    web: Web,
    captures: [Capture; 2],
}

fn demo(arguments: &Arguments) -> Result<()> {
    screen::title("xtproxy: a connection is taken by a proxy, and neither end needs to know");
    state::make_room()?;
    step("A lab of four boxes, as network namespaces joined by veth");
    let plan = Plan {
        name: Some(NAME.into()),
        dmz: true,
        ..Plan::default()
    };
    let mut lab = Lab::build(&plan)?;
    state::write(&lab)?;
    let played = play(&mut lab, arguments);
    if arguments.keep && played.is_ok() {
        return Ok(());
    }
    step("Cleaning up");
    drop(lab);
    state::forget()?;
    did("nothing is left");
    played
}

fn play(lab: &mut Lab, arguments: &Arguments) -> Result<()> {
    screen::map();
    let cast = enter(lab, arguments)?;
    fetch_page(lab, &cast)?;
    fetch_large(lab, &cast)?;
    let open = show_flows(lab, &cast)?;
    let Cast {
        mut relay,
        mut daemon,
        mut web,
        captures,
    } = cast;
    show_hops(lab, &relay, &web, captures)?;
    drop(open);
    let ftp = Ftp::show(lab, &daemon)?;
    let dmz = Dmz::show(lab)?;
    daemon.check_alive()?;
    daemon.check_frames()?;
    if arguments.keep {
        lab.keep();
        relay.program().release();
        daemon.program().release();
        web.release();
        ftp.release();
        dmz.release();
        screen::kept(lab);
        state::keep(lab)?;
    }
    Ok(())
}

fn enter(lab: &Lab, arguments: &Arguments) -> Result<Cast> {
    step("A web server, a proxy, and xtproxyd with these rules");
    for line in RULES.lines() {
        note(line);
    }
    let web = Web::start(&lab.server, lab.dir())?;
    did(&format!("nginx serves at {WEB}"));
    let captures = [
        Capture::start(&lab.client, lab.dir())?,
        Capture::start(&lab.server, lab.dir())?,
    ];
    let mode = if arguments.generic {
        Mode::Generic
    } else {
        Mode::Auto
    };
    let daemon = Daemon::start(lab, &Config::new(mode, RULES))?;
    let ports = daemon.json(&["ports"])?;
    let ports = ports.as_array().or_else(|| ports["ports"].as_array());
    for port in ports.into_iter().flatten() {
        let word = |key: &str| port[key].as_str().unwrap_or("?").to_owned();
        let (name, bound, xdp) = (word("interface"), word("bound"), word("xdp"));
        did(&format!("xtproxyd has {name}: AF_XDP {bound}, XDP {xdp}"));
    }
    let relay = Relay::start(lab, PROXY)?;
    did(&format!(
        "the relay, an ordinary program, listens at {PROXY}"
    ));
    Ok(Cast {
        relay,
        daemon,
        web,
        captures,
    })
}

fn fetch_page(lab: &Lab, cast: &Cast) -> Result<()> {
    step("The client fetches a page from the server");
    let url = format!("http://{SERVER}/page.html");
    screen::command(&format!("curl {url}"));
    let port = PAGE_PORT.to_string();
    let page = run(curl(&lab.client).args(["--local-port", &port, &url]))?;
    note(page.trim_end());
    ensure!(page == PAGE, "this is not the page that the server has");
    let wanted = [format!("{CLIENT}:{PAGE_PORT}"), WEB.to_string()];
    cast.relay.wait_line(&[&wanted[0], &wanted[1]])?;
    did("the page is right, and the proxy's log has the connection");
    Ok(())
}

fn fetch_large(lab: &Lab, cast: &Cast) -> Result<()> {
    step(&format!("The client fetches a file of {} MiB", LARGE >> 20));
    let sum = cast.web.add_random("large", LARGE)?;
    let copy = lab.dir().join("large.copy");
    let url = format!("http://{SERVER}/large");
    screen::command(&format!("curl {url} | sha256sum"));
    let start = Instant::now();
    run(curl(&lab.client).arg("--output").arg(&copy).arg(&url))?;
    let seconds = start.elapsed().as_secs_f64();
    let came = files::sha256(&copy)?;
    ensure!(came == sum, "it came as {came}, but left as {sum}");
    let rate = LARGE as f64 * 8.0 / 1e9 / seconds;
    did(&format!(
        "equal at both ends: sha256 {}…",
        came.get(..16).unwrap_or_default()
    ));
    did(&format!(
        "{seconds:.1} s, {rate:.2} Gbit/s, with a capture on each wire"
    ));
    Ok(())
}

/// Holds a connection open, so that there is a flow to see.
fn show_flows(lab: &Lab, cast: &Cast) -> Result<TcpStream> {
    step("Flows, while a browser keeps its connection open");
    let mut stream = connect(&lab.client, None, WEB, lab::connection::TIMEOUT)?;
    write!(stream, "GET /page.html HTTP/1.1\r\nHost: {SERVER}\r\n\r\n")?;
    let answer = read_line(&stream)?;
    ensure!(
        answer.starts_with("HTTP/1.1 200"),
        "the server says {answer}"
    );
    screen::command("xtproxy flows list");
    let flows = cast.daemon.ask(&["flows", "list"])?;
    for line in flows.lines() {
        note(line);
    }
    let from = stream.local_addr()?.port().to_string();
    let live = cast.daemon.flows(&["--sport", &from])?;
    ensure!(
        live.len() == 1,
        "the open connection is not among the flows"
    );
    did("the open connection is a redirected flow");
    Ok(stream)
}

fn show_hops(lab: &Lab, relay: &Relay, web: &Web, captures: [Capture; 2]) -> Result<()> {
    step("What became of the page's connection on each hop");
    let from = SocketAddrV4::new(CLIENT, PAGE_PORT);
    let at_server = web.accesses()?.into_iter();
    let asked = at_server
        .map(|access| access.client)
        .next()
        .context("the server has no request")?;
    let told = relay.wait_line(&[&from.to_string(), &WEB.to_string()])?;
    let hops = hops::Hops {
        client: from,
        proxy: PROXY,
        onward: asked,
        server: WEB,
    };
    hops.show(&told);
    let reports = hops::judge(lab, captures, &hops)?;
    for (wire, report) in ["client", "server"].iter().zip(&reports) {
        let (tcp, all) = (report.count("tcp"), report.count("all"));
        did(&format!(
            "{wire}'s wire: {all} frames from the firewall, {tcp} TCP, every checksum right"
        ));
    }
    did(&format!(
        "the client saw only {WEB}; the server never saw {}",
        CLIENT
    ));
    Ok(())
}
