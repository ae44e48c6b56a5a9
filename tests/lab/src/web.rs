//! A real web server (nginx) and a real client (curl).

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::run;
use crate::files;
use crate::namespace::Namespace;
use crate::program::Program;

/// The page that the server has at `/page.html`.
pub const PAGE: &str = "<!doctype html><title>lab</title><p>It came through the firewall.</p>\n";

/// nginx at port 80 of every address of its namespace.
#[derive(Debug)]
pub struct Web {
    program: Program,
    dir: PathBuf,
}

/// One line of the server's access log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// Who asked.
    pub client: SocketAddrV4,
    /// Status of the answer.
    pub status: u16,
    /// Number of the connection.
    pub connection: u64,
    /// Path asked for.
    pub path: String,
}

impl Web {
    /// Starts nginx inside `namespace`, with its files below `dir`.
    pub fn start(namespace: &Namespace, dir: &Path) -> Result<Self> {
        let dir = dir.join(format!("web-{}", namespace.name()));
        fs::create_dir_all(dir.join("www"))?;
        fs::write(dir.join("www/page.html"), PAGE)?;
        fs::write(dir.join("nginx.conf"), config(&dir))?;
        let mut command = namespace.command("nginx");
        command.arg("-p").arg(&dir).args(["-e", "error.log"]);
        command.arg("-c").arg(dir.join("nginx.conf"));
        let mut program = Program::start(&dir, "nginx", command)?;
        program.wait_for("start worker process ")?;
        Ok(Web { program, dir })
    }

    /// Adds a file of random bytes at `/NAME` and returns its SHA-256.
    pub fn add_random(&self, name: &str, bytes: u64) -> Result<String> {
        let path = self.dir.join("www").join(name);
        files::write_random(&path, bytes)?;
        files::sha256(&path)
    }

    /// The access log so far.
    pub fn accesses(&self) -> Result<Vec<Access>> {
        let text = fs::read_to_string(self.dir.join("access.log"))?;
        text.lines()
            .map(|line| access(line).with_context(|| format!("access log: {line}")))
            .collect()
    }

    /// How many connections brought at least one request.
    pub fn connections(&self) -> Result<usize> {
        let numbers: BTreeSet<u64> = self.accesses()?.iter().map(|a| a.connection).collect();
        Ok(numbers.len())
    }

    /// Leaves nginx running when the guard goes.
    pub fn release(&mut self) {
        self.program.release();
    }
}

fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "daemon off;\nuser root;\nworker_processes 1;\nerror_log stderr notice;\npid {dir}/pid;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n\
         log_format visits '$remote_addr:$remote_port $status $connection $request_uri';\n\
         access_log {dir}/access.log visits;\n\
         client_body_temp_path {dir}/body;\nproxy_temp_path {dir}/proxy;\n\
         fastcgi_temp_path {dir}/fastcgi;\nuwsgi_temp_path {dir}/uwsgi;\n\
         scgi_temp_path {dir}/scgi;\n\
         sendfile on;\nkeepalive_timeout 75;\nkeepalive_requests 100000;\n\
         server {{ listen 80 backlog=1024; root {dir}/www; }}\n}}\n"
    )
}

fn access(line: &str) -> Option<Access> {
    let mut words = line.split(' ');
    Some(Access {
        client: words.next()?.parse().ok()?,
        status: words.next()?.parse().ok()?,
        connection: words.next()?.parse().ok()?,
        path: words.next()?.to_owned(),
    })
}

/// `curl` inside `namespace`, silent but for errors, with a limit of time.
pub fn curl(namespace: &Namespace) -> Command {
    let mut command = namespace.command("curl");
    command.args(["--silent", "--show-error", "--fail", "--max-time", "120"]);
    command.args(["--noproxy", "*"]);
    command
}

/// Fetches the page from `server` and returns it.
pub fn fetch_page(namespace: &Namespace, server: Ipv4Addr) -> Result<String> {
    run(curl(namespace).arg(format!("http://{server}/page.html")))
}

/// Fetches `/NAME` from `server` and returns the SHA-256 of what came.
pub fn fetch_sha256(
    namespace: &Namespace,
    server: Ipv4Addr,
    name: &str,
    dir: &Path,
) -> Result<String> {
    let copy = dir.join(format!("{name}.copy"));
    run(curl(namespace)
        .arg("--output")
        .arg(&copy)
        .arg(format!("http://{server}/{name}")))?;
    let sum = files::sha256(&copy);
    fs::remove_file(&copy)?;
    sum
}
