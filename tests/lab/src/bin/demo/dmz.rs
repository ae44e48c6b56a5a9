//! A web server in the DMZ, whose visitors come through a proxy that connects as they.

use std::net::SocketAddrV4;

use anyhow::{Context, Result, ensure};
use lab::command::run;
use lab::topology::{DMZ, FW_DMZ, FW_INTER, SERVER};
use lab::web::{PAGE, curl};
use lab::{Lab, Relay, Web};

use crate::screen::{self, did, note, row, step};

/// Where the proxy listens.
const PROXY: SocketAddrV4 = SocketAddrV4::new(FW_INTER, 50081);
/// The web server.
const WEB: SocketAddrV4 = SocketAddrV4::new(DMZ, 80);

/// What runs for this scene.
pub struct Dmz {
    relay: Relay,
    web: Web,
}

impl Dmz {
    /// Plays the scene.
    pub fn show(lab: &Lab) -> Result<Self> {
        step("A web server of ours in the DMZ: its log shows its visitors, not the proxy");
        let dmz = lab.dmz.as_ref().context("the lab has no third zone")?;
        let web = Web::start(dmz, lab.dir())?;
        did(&format!("nginx serves at {WEB}"));
        let relay = Relay::start_as(lab, "relay", PROXY, &["--as-client"])?;
        did(&format!("relay --as-client listens at {PROXY}"));
        let url = format!("http://{DMZ}/page.html");
        screen::command(&format!("curl {url}        # outside, at {SERVER}"));
        let page = run(curl(&lab.server).arg(&url))?;
        ensure!(page == PAGE, "this is not the page that the server has");
        let dmz = Dmz { relay, web };
        dmz.show_visit()?;
        Ok(dmz)
    }

    /// Leaves both running.
    pub fn release(mut self) {
        self.relay.program().release();
        self.web.release();
    }

    fn show_visit(&self) -> Result<()> {
        let wanted = [&format!("{SERVER}:"), &format!("-> {WEB}")];
        let told = self.relay.wait_line(&wanted.map(String::as_str))?;
        note(&format!("proxy's log: {}", told.trim()));
        let visits = self.web.accesses()?;
        let visit = visits.first().context("the server has no request")?;
        row(
            "nginx's log",
            visit.client,
            "->",
            WEB,
            &format!("GET {}, {}", visit.path, visit.status),
        );
        ensure!(
            visits.iter().all(|visit| *visit.client.ip() == SERVER),
            "the server logged {visits:?}"
        );
        did(&format!("the server knows {SERVER}, not {FW_DMZ}"));
        Ok(())
    }
}
