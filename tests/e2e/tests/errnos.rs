//! Every operation of TProxy 2.0 and every errno of it, by the Rust library, by the C library
//! and by the socket options under the preload shim, against the real daemon.

use std::fs;
use std::io::Write;
use std::net::SocketAddrV4;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use e2e::{Script, Stage, play};
use lab::Mode;
use lab::command::{built, run};
use lab::source::{bare, preloaded};
use lab::topology::FW_INTER;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use xtproxy_client::{Flags, Registrar};

const ENOENT: i32 = 2;
const EFAULT: i32 = 14;
const EEXIST: i32 = 17;
const EINVAL: i32 = 22;
const ENOPROTOOPT: i32 = 92;
const EADDRINUSE: i32 = 98;

/// Words, and the errno of the last; all before it are done. Flags and versions are hexadecimal.
const CASES: &[(&str, i32)] = &[
    ("tcp=5001 version=2000000", 0),
    ("tcp=5001 version=2000006", 0),
    ("tcp=5001 version=1000000", EINVAL),
    ("tcp=5001 version=2010000", EINVAL),
    ("tcp=5001 version=3000000", EINVAL),
    ("tcp=5001 getversion", 0),
    ("raw getversion", EINVAL),
    ("raw assign=203.0.113.5:21", EINVAL),
    ("tcp=5001 assign=203.0.113.5:21", 0),
    ("udp=5001 assign=203.0.113.5:21", 0),
    ("tcp=5001 assign=203.0.113.5:0", 0),
    ("tcp=5001 assign=0.0.0.0:0", 0),
    ("unbound assign=203.0.113.5:21", EINVAL),
    ("udp=5001 joined assign=203.0.113.5:21", EINVAL),
    ("tcp=5001 assign=127.0.0.9:21", EINVAL),
    ("tcp=5001 assign=224.0.0.5:21", EINVAL),
    (
        "tcp=5001 assign=203.0.113.5:21 assign=203.0.113.6:21",
        EEXIST,
    ),
    (
        "reuse=5001 assign=203.0.113.5:0 reuse=5001 assign=203.0.113.6:0",
        EEXIST,
    ),
    (
        "reuse=5001 assign=203.0.113.5:0 peer=198.51.100.10:80 reuse=5001 assign=203.0.113.6:0",
        0,
    ),
    (
        "tcp=5001 assign=203.0.113.5:21 tcp=5002 assign=203.0.113.5:21",
        EADDRINUSE,
    ),
    (
        "tcp=5001 assign=203.0.113.5:21 reuse=5002 assign=203.0.113.5:21",
        0,
    ),
    (
        "tcp=5001 assign=203.0.113.5:21 udp=5002 assign=203.0.113.5:21",
        0,
    ),
    (
        "tcp=5001 assign=203.0.113.5:21 unassign tcp=5002 assign=203.0.113.5:21",
        0,
    ),
    (
        "tcp=5001 assign=203.0.113.5:21 gone tcp=5001 assign=203.0.113.5:21",
        0,
    ),
    ("tcp=5001 unassign", ENOENT),
    ("tcp=5001 assign=203.0.113.5:21 unassign", 0),
    ("tcp=5001 assign=203.0.113.5:21 unassign unassign", ENOENT),
    ("tcp=5001 query", ENOENT),
    ("tcp=5001 assign=203.0.113.5:21 query", 0),
    ("tcp=5001 assign=203.0.113.5:21 unassign query", ENOENT),
    ("tcp=5001 flags=1", ENOENT),
    ("tcp=5001 getflags", ENOENT),
    ("tcp=5001 assign=203.0.113.5:21 getflags", 0),
    ("tcp=5001 assign=203.0.113.5:21 flags=10001", 0),
    ("tcp=5001 assign=203.0.113.5:21 flags=2", 0),
    ("tcp=5001 assign=203.0.113.5:21 flags=60002", 0),
    ("tcp=5001 assign=203.0.113.5:21 flags=8", EINVAL),
    (
        "tcp=5001 assign=203.0.113.5:21 reuse=5002 assign=203.0.113.5:21 flags=2",
        EINVAL,
    ),
    (
        "tcp=5001 assign=203.0.113.5:21 reuse=5002 assign=203.0.113.5:21 flags=1",
        0,
    ),
    ("udp=5001 assign=203.0.113.5:21 flags=4", EINVAL),
    (
        "udp=5001 assign=203.0.113.5:21 peer=198.51.100.10:53 flags=4",
        0,
    ),
    (
        "tcp=5001 assign=203.0.113.5:21 peer=198.51.100.10:53 flags=4",
        EINVAL,
    ),
    ("udp=5001 assign=203.0.113.5:21 flags=80002", 0),
    ("tcp=5001 assign=203.0.113.5:21 flags=80002", EINVAL),
    (
        "reuse=5001 assign=203.0.113.5:21 peer=198.51.100.10:80 flags=1 \
      reuse=5002 assign=203.0.113.5:21 peer=198.51.100.10:80 flags=1",
        EADDRINUSE,
    ),
    (
        "reuse=5001 assign=203.0.113.5:21 peer=198.51.100.10:80 flags=1 \
      reuse=5002 assign=203.0.113.5:21 peer=198.51.100.10:81 flags=1",
        0,
    ),
    ("tcp=5001 alloc", ENOENT),
    ("tcp=5001 assign=203.0.113.5:0 alloc", 0),
    ("tcp=5001 assign=203.0.113.5:0 alloc alloc", EINVAL),
    ("tcp=5001 assign=203.0.113.5:21 alloc", EINVAL),
    ("tcp=5001 peer=198.51.100.10:80", ENOENT),
    ("tcp=5001 assign=203.0.113.5:21 peer=198.51.100.10:80", 0),
];

/// What only the socket options can say.
const RAW_CASES: &[(&str, i32)] = &[
    ("tcp=5001 short", EINVAL),
    ("tcp=5001 pointer", EFAULT),
    ("tcp=5001 setop=3", ENOPROTOOPT),
    ("tcp=5001 setop=9", ENOPROTOOPT),
    ("tcp=5001 getop=9", ENOPROTOOPT),
    ("tcp=5001 getop=1", ENOPROTOOPT),
];

#[test]
fn every_operation_by_every_edge() {
    let script = Script::new(Mode::Auto).with_relays(&[]);
    play(&script, |stage| {
        let registrar = stage.registrar()?;
        let rust: Vec<String> = stage.lab.fw.enter(|| {
            let played = CASES.iter().map(|(words, _)| in_rust(&registrar, words));
            played.collect()
        })?;
        compare("Rust", CASES, &rust)?;
        let raw = stage.compile("errnos.c")?;
        let all: Vec<(&str, i32)> = CASES.iter().chain(RAW_CASES).copied().collect();
        let told = in_c(preloaded(&stage.lab, &raw)?, &all)?;
        compare("preload", &all, &told)?;
        let library = linked(stage)?;
        compare("C", CASES, &in_c(bare(&stage.lab, &library), CASES)?)?;
        stage.registrations_end()
    });
}

fn compare(edge: &str, cases: &[(&str, i32)], told: &[String]) -> Result<()> {
    ensure!(cases.len() == told.len(), "{edge}: {} answers", told.len());
    let wrong: Vec<String> = cases
        .iter()
        .zip(told)
        .filter(|((_, errno), told)| **told != errno.to_string())
        .map(|((words, errno), told)| format!("{edge}: {words}: {told} and not {errno}"))
        .collect();
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The answers of a program that plays the cases.
fn in_c(mut command: Command, cases: &[(&str, i32)]) -> Result<Vec<String>> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut program = command.spawn()?;
    let lines: String = cases
        .iter()
        .map(|(words, _)| format!("{words}\n"))
        .collect();
    let mut input = program.stdin.take().context("no input")?;
    input.write_all(lines.as_bytes())?;
    drop(input);
    let output = program.wait_with_output()?;
    ensure!(output.status.success(), "{}", output.status);
    let told = String::from_utf8(output.stdout)?;
    Ok(told.lines().map(str::to_owned).collect())
}

/// The same program, with the C library in place of the socket options.
fn linked(stage: &Stage) -> Result<std::path::PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = built("libxtproxy.so")?;
    // By its name for the linker and by that for the loader.
    let folder = stage.lab.dir().join("lib");
    fs::create_dir(&folder)?;
    for name in ["libxtproxy.so", "libxtproxy.so.0"] {
        fs::copy(&shared, folder.join(name))?;
    }
    let program = stage.lab.dir().join("errnos-linked");
    let mut command = Command::new("cc");
    command.args([
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-DLIBRARY",
        "-I",
    ]);
    command.arg(root.join("../../control/capi/include"));
    command
        .arg(root.join("programs/errnos.c"))
        .arg("-o")
        .arg(&program);
    command.arg("-L").arg(&folder).arg("-lxtproxy");
    command.arg(format!("-Wl,-rpath,{}", folder.display()));
    run(&mut command)?;
    Ok(program)
}

/// The errno of the last word, as the C programs say it.
fn in_rust(registrar: &Registrar, words: &str) -> Result<String> {
    let mut sockets: Vec<Socket> = Vec::new();
    let mut now = 0;
    let mut failed = 0;
    for word in words.split_whitespace() {
        if failed != 0 {
            return Ok(format!("{failed} before {word}"));
        }
        let (word, value) = word.split_once('=').unwrap_or((word, ""));
        let opened = match word {
            "tcp" => Some(bound(Type::STREAM, value, false)?),
            "reuse" => Some(bound(Type::STREAM, value, true)?),
            "udp" => Some(bound(Type::DGRAM, value, false)?),
            "unbound" => Some(Socket::new(Domain::IPV4, Type::STREAM, None)?),
            "raw" => Some(Socket::new(
                Domain::IPV4,
                Type::RAW,
                Some(Protocol::ICMPV4),
            )?),
            _ => None,
        };
        if let Some(socket) = opened {
            now = sockets.len();
            sockets.push(socket);
            continue;
        }
        match word {
            "use" => now = value.parse()?,
            "gone" => drop(sockets.remove(now)),
            "joined" => {
                let peer: SocketAddrV4 = "198.51.100.10:7000".parse()?;
                sockets[now].connect(&SockAddr::from(peer))?;
            }
            _ => failed = operation(registrar, &sockets[now], word, value)?,
        }
    }
    Ok(failed.to_string())
}

fn bound(kind: Type, port: &str, reuse: bool) -> Result<Socket> {
    let socket = Socket::new(Domain::IPV4, kind, None)?;
    socket.set_reuse_address(reuse)?;
    socket.bind(&SockAddr::from(SocketAddrV4::new(FW_INTER, port.parse()?)))?;
    Ok(socket)
}

fn operation(registrar: &Registrar, socket: &Socket, word: &str, value: &str) -> Result<i32> {
    let socket = &socket.as_fd();
    let number = || u32::from_str_radix(value, 16);
    let answer = match word {
        "version" => registrar.check_version(socket, number()?),
        "getversion" => registrar.version(socket).map(drop),
        "assign" => registrar.assign(socket, value.parse()?),
        "peer" => registrar.set_peer(socket, value.parse()?),
        "unassign" => registrar.unassign(socket),
        "query" => registrar.query(socket).map(drop),
        "flags" => registrar.set_flags(socket, Flags::from_bits_retain(number()?)),
        "getflags" => registrar.flags(socket).map(drop),
        "alloc" => registrar.alloc(socket),
        other => bail!("no word {other}"),
    };
    match answer {
        Ok(()) => Ok(0),
        Err(error) => Ok(error.errno()),
    }
}
