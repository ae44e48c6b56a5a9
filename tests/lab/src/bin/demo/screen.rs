//! What the demo prints.

use std::fmt::Display;
use std::io::IsTerminal;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Error;
use lab::Lab;

/// The lab as a drawing.
const MAP: &str = "      client                        firewall                        server
  192.168.1.10  ----  192.168.1.1 eth1 | eth2 198.51.100.1  ----  198.51.100.10
                            XDP |            ^ kernel
                        AF_XDP  v            | sockets
                          xtproxyd  ----->  proxies
                                       | eth3 10.0.0.1  ----  10.0.0.10 DMZ";

/// `text` in a terminal's `style`, plain where there is none.
fn styled(style: &str, text: impl Display) -> String {
    let plain = !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some();
    match plain {
        true => text.to_string(),
        false => format!("\x1b[{style}m{text}\x1b[0m"),
    }
}

/// The first line.
pub fn title(text: &str) {
    println!("{}", styled("1", text));
}

/// Begins a step.
pub fn step(text: &str) {
    static STEPS: AtomicU32 = AtomicU32::new(1);
    let number = STEPS.fetch_add(1, Ordering::Relaxed);
    println!("\n{}", styled("1;36", format_args!("{number}. {text}")));
}

/// Something that was done and checked.
pub fn did(text: &str) {
    println!("   {} {text}", styled("32", "ok"));
}

/// A line that explains or quotes.
pub fn note(text: &str) {
    println!("      {text}");
}

/// A command as the user could type it.
pub fn command(text: &str) {
    println!("   {}", styled("1", format_args!("$ {text}")));
}

/// One hop.
pub fn row(wire: &str, left: impl Display, arrow: &str, right: impl Display, meaning: &str) {
    let (left, right) = (left.to_string(), right.to_string());
    println!(
        "   {wire:<16} {left:<21} {arrow} {right:<21} {}",
        styled("2", meaning)
    );
}

/// The drawing.
pub fn map() {
    println!("{MAP}");
}

/// How to play with a lab that stays.
pub fn kept(lab: &Lab) {
    step("The lab stays. Enter it:");
    let dir = lab.dir().display();
    let (client, fw) = (lab.client.name(), lab.fw.name());
    note(&format!(
        "ip netns exec {client} curl http://198.51.100.10/page.html"
    ));
    note(&format!(
        "ip netns exec {client} curl ftp://198.51.100.10/file --output /dev/null"
    ));
    note(&format!(
        "ip netns exec {fw} bash        # the firewall's box"
    ));
    note(&format!(
        "ip netns exec {} bash    # the server's",
        lab.server.name()
    ));
    note(&format!(
        "ip netns exec {} curl http://10.0.0.10/page.html",
        lab.server.name()
    ));
    note(&format!(
        "target/release/xtproxy --runtime-dir {dir}/run status"
    ));
    note(&format!("files: {dir}"));
    note("remove it: make demo-clean");
}

/// The last line when a step failed.
pub fn failed(error: &Error) {
    eprintln!("{} {error:#}", styled("1;31", "demo failed:"));
}
