//! A real FTP server (vsftpd).

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::files;
use crate::namespace::Namespace;
use crate::program::{PATIENCE, Program};

/// vsftpd at port 21 of every address of its namespace: anybody may read, and write below
/// `/in`.
#[derive(Debug)]
pub struct FtpServer {
    program: Program,
    dir: PathBuf,
}

impl FtpServer {
    /// Starts vsftpd inside `namespace`, with its files below `dir`.
    pub fn start(namespace: &Namespace, dir: &Path) -> Result<Self> {
        let dir = dir.join(format!("ftp-{}", namespace.name()));
        fs::create_dir_all(dir.join("root/in"))?;
        fs::create_dir_all(dir.join("empty"))?;
        // It serves as another user, and refuses a root that this one could write to.
        fs::set_permissions(dir.join("root/in"), Permissions::from_mode(0o777))?;
        fs::write(dir.join("vsftpd.conf"), config(&dir))?;
        let mut command = namespace.command("vsftpd");
        command.arg(dir.join("vsftpd.conf"));
        let mut server = FtpServer {
            program: Program::start(&dir, "vsftpd", command)?,
            dir,
        };
        server.wait_listening(namespace)?;
        Ok(server)
    }

    /// Adds a file of random bytes at `/NAME` and returns its path on this machine.
    pub fn add_random(&self, name: &str, bytes: u64) -> Result<PathBuf> {
        let path = self.dir.join("root").join(name);
        files::write_random(&path, bytes)?;
        fs::set_permissions(&path, Permissions::from_mode(0o644))?;
        Ok(path)
    }

    /// Where `/in/NAME` lies on this machine.
    pub fn uploaded(&self, name: &str) -> PathBuf {
        self.dir.join("root/in").join(name)
    }

    /// The server's log.
    pub fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir.join("vsftpd.log"))?)
    }

    /// How often the log has `event` (`CONNECT`, `OK DOWNLOAD`, `OK UPLOAD`), by client.
    pub fn clients(&self, event: &str) -> Result<BTreeMap<Ipv4Addr, usize>> {
        let mut clients = BTreeMap::new();
        for line in self.log()?.lines() {
            let Some((_, rest)) = line.split_once(&format!("{event}: Client \"")) else {
                continue;
            };
            let address = rest.split('"').next().unwrap_or_default();
            // A server of both families shows IPv4 inside IPv6.
            let address = address.trim_start_matches("::ffff:").parse()?;
            *clients.entry(address).or_default() += 1;
        }
        Ok(clients)
    }

    fn wait_listening(&mut self, namespace: &Namespace) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        while !namespace.run("ss -Htln")?.contains(":21 ") {
            if self.program.ended()?.is_some() || Instant::now() > until {
                let said = self.program.stdout() + &self.program.stderr();
                bail!("vsftpd does not listen: {said}");
            }
            thread::sleep(std::time::Duration::from_millis(20));
        }
        Ok(())
    }
}

fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "listen=YES\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\nno_anon_password=YES\n\
         write_enable=YES\nanon_upload_enable=YES\nanon_other_write_enable=YES\nanon_umask=022\n\
         anon_root={dir}/root\nsecure_chroot_dir={dir}/empty\nftp_username=bin\n\
         connect_from_port_20=YES\npasv_min_port=30000\npasv_max_port=30999\n\
         async_abor_enable=YES\nmax_per_ip=0\nmax_clients=0\n\
         xferlog_enable=YES\nvsftpd_log_file={dir}/vsftpd.log\nlog_ftp_protocol=YES\n"
    )
}
