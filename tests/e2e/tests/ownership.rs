//! Who may register what, and clients that mean ill.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::process::Output;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::{RELAY, Script, Stage, in_both_modes, play, server};
use lab::command::{built, output};
use lab::connection::exchange;
use lab::daemon::runtime_dir;
use lab::topology::{CLIENT, FW_INTRA, SERVER};
use lab::web::fetch_sha256;
use lab::{Behaviour, Mode, Program};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use shm::{Access, Operation, Request};

in_both_modes! {
    a_user_needs_a_grant,
    anothers_socket_is_nobodys_to_claim,
    hostile_clients_hurt_nobody,
}

const FOREIGN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 5);
const GRANTED: &str = "\n[[grant]]\nuser = 64001\nforeign = [\"203.0.113.0/28\"]\n\
     \n[[grant]]\ngroup = 64002\nforeign = [\"192.168.1.10/32\"]\n";

/// What `xtproxy connect` to a server at port 7000 says, as this user and group.
fn connect_as(stage: &Stage, user: u32, group: u32, foreign: Ipv4Addr) -> Result<Output> {
    let mut command = stage.lab.fw.command("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={group}")]);
    command.arg("--clear-groups").arg(built("xtproxy")?);
    command.arg("--runtime-dir").arg(runtime_dir(&stage.lab));
    command.args(["connect", "--foreign", &foreign.to_string()]);
    command.args([&server(7000).to_string(), "--", "true"]);
    output(&mut command)
}

fn a_user_needs_a_grant(mode: Mode) {
    let mut script = Script::new(mode)
        .with_relays(&[])
        .with_timeouts(e2e::SHORT_ENDINGS);
    script.tables += GRANTED;
    play(&script, |stage| {
        stage.servers_see_only(&[FOREIGN, CLIENT]);
        let peer = stage.peer(7000, Behaviour::Echo)?;
        let outside = Ipv4Addr::new(203, 0, 113, 16);
        let (may, may_not) = (Some(0), Some(1));
        let cases = [
            (0, 0, FOREIGN, may),
            (64_001, 64_001, FOREIGN, may),
            (64_001, 64_001, outside, may_not),
            (64_001, 64_001, CLIENT, may_not),
            (64_003, 64_002, CLIENT, may),
            (64_003, 64_002, FOREIGN, may_not),
            (64_003, 64_003, FOREIGN, may_not),
            (64_003, 64_003, CLIENT, may_not),
        ];
        let mut came = 0;
        for (user, group, foreign, expected) in cases {
            let done = connect_as(stage, user, group, foreign)?;
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            let case = format!("{user}:{group} {foreign}: {}: {said}", done.status);
            ensure!(done.status.code() == expected, "{case}");
            if expected == may_not {
                let is_clear = said.contains("[[grant]]") && said.lines().count() == 1;
                ensure!(is_clear, "{case}");
            } else {
                came += 1;
                let visits = peer.wait_ended(came)?;
                ensure!(visits[came - 1].from.ip() == foreign, "{case}: {visits:?}");
            }
        }
        assert_eq!(peer.visits().len(), came);
        stage.registrations_end()
    });
}

/// What is registered is the socket that the asker has open, and nothing that it only names.
fn anothers_socket_is_nobodys_to_claim(mode: Mode) {
    play(&Script::new(mode).with_relays(&[]), |stage| {
        let registrar = stage.registrar()?;
        let bind = || Ok(TcpListener::bind((FW_INTRA, 0))?);
        let (own, others) = (stage.lab.fw.enter(bind)?, stage.lab.fw.enter(bind)?);
        // One of another network namespace, at an address that the box has too.
        let elsewhere = stage
            .lab
            .client
            .enter(|| Ok(TcpListener::bind("127.0.0.1:0")?))?;
        let foreign = SocketAddr::from((FOREIGN, 2121));
        let claim = |fd: i32, change: &dyn Fn(&mut Request)| {
            let mut request = Request::new(Operation::Assign, Access::Set, fd);
            request.foreign = Some(foreign);
            change(&mut request);
            registrar.call(&request).map(drop)
        };
        use std::os::fd::AsRawFd;
        let fd = own.as_raw_fd();
        let local = others.local_addr()?;
        let refused = |errno: Errno| Err(errno as i32);
        let named = claim(fd, &|request| request.local = Some(local));
        assert_eq!(named, refused(Errno::EINVAL), "another's address");
        let named = claim(fd, &|request| request.cookie = 1);
        assert_eq!(named, refused(Errno::EBADF), "another's cookie");
        let named = claim(fd, &|request| request.proto = 17);
        assert_eq!(named, refused(Errno::EINVAL), "another protocol");
        assert_eq!(
            claim(987_654, &|_| {}),
            refused(Errno::EBADF),
            "none of ours"
        );
        assert_eq!(claim(0, &|_| {}), refused(Errno::ENOTSOCK), "no socket");
        let other = claim(elsewhere.as_raw_fd(), &|_| {});
        assert_eq!(other, refused(Errno::EINVAL), "of another namespace");
        assert_eq!(stage.registrations()?.len(), 0);
        assert_eq!(claim(fd, &|_| {}), Ok(()));
        assert_eq!(stage.registrations()?.len(), 1);
        Ok(())
    });
}

fn hostile_clients_hurt_nobody(mode: Mode) {
    play(&Script::new(mode).with_relays(&[]), |stage| {
        stage.proxy("relay", RELAY, &["--as-client"])?;
        stage.servers_see_only(&[CLIENT]);
        let sum = stage.web.add_random("file", 20_000_000)?;
        let registrar = stage.registrar()?;
        let socket = stage
            .lab
            .fw
            .enter(|| Ok(TcpListener::bind((FW_INTRA, 0))?))?;
        registrar.assign(&socket, SocketAddrV4::new(FOREIGN, 2121))?;
        let before = stage.registrations()?.len();
        let program = stage.compile("hostile.c")?;
        let at = runtime_dir(&stage.lab).join("client.sock");
        let start = |way: &str| -> Result<Program> {
            let mut command = stage.lab.fw.command("setpriv");
            command.args(["--reuid=64003", "--regid=64003", "--clear-groups"]);
            command.arg(&program).arg(&at).arg(way);
            let mut program = Program::start(stage.lab.dir(), way, command)?;
            program.wait_for("ready").map(|_| program)
        };
        let ways = ["scribble", "flood", "nonsense", "fork"];
        let mut hostile = ways
            .iter()
            .map(|way| start(way))
            .collect::<Result<Vec<_>>>()?;
        // Flooding is allowed; what breaks the rules is cut off.
        for way in [0, 3] {
            hostile[way].wait_for("cut off")?;
        }
        let slowest = (0..3).try_fold(Duration::ZERO, |slowest, _| {
            let came = fetch_sha256(&stage.lab.client, SERVER, "file", stage.lab.dir())?;
            ensure!(came == sum, "the file is another");
            let begun = Instant::now();
            ensure!(
                registrar.version(&socket)? == 0x0200_0006,
                "another version"
            );
            anyhow::Ok(slowest.max(begun.elapsed()))
        })?;
        eprintln!("a question takes {slowest:?} at most");
        for program in &mut hostile {
            ensure!(program.ended()?.is_none(), "it ended: {}", program.stderr());
        }
        // One that stops in the middle, and ones that only come.
        hostile[1].signal(Signal::SIGSTOP)?;
        let crowd = start("crowd")?;
        ensure!(
            registrar.version(&socket)? == 0x0200_0006,
            "another version"
        );
        let peer = stage.peer(7000, Behaviour::Echo)?;
        assert_eq!(exchange(&stage.connect(peer.address)?, "hello")?, "hello");
        hostile[1].signal(Signal::SIGKILL)?;
        drop((hostile, crowd));
        stage.daemon.check_alive()?;
        assert_eq!(registrar.query(&socket)?, SocketAddrV4::new(FOREIGN, 2121));
        // A newcomer is served again, and nothing that they made is left.
        let newcomer = stage.registrar()?;
        ensure!(newcomer.version(&socket)? == 0x0200_0006, "another version");
        stage.daemon.wait_until("their registrations end", |_| {
            let all = stage.registrations()?;
            Ok(all.iter().filter(|one| one["command"] == "hostile").count() == 0)
        })?;
        ensure!(before == 1, "{before} before");
        Ok(())
    });
}
