//! `xtproxy listen` and `xtproxy assign`: a registration that stands as long as they run.
//!
//! TCP: a socket of our own is bound to the local address and never listens (`placeholder`).
//! UDP: there the kernel would give our socket the datagrams, so the socket of whoever is bound
//! to the local address is registered (`borrowed`).
//!
//! Invariant: whoever ends the process, nothing is left of it: an entry goes with its socket.

mod borrowed;
mod child;
mod placeholder;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddrV4;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::io::Errno;
use serde_json::json;
use socket2::Socket;
use xtproxy_client::{Error, Flags, Registrar};

use crate::arguments::{Assign, Listen};
use crate::run::Failed;
use crate::signals::{ENDING, Signals};

use borrowed::Borrowed;
pub(crate) use child::Child;

/// How often to look whether it still stands.
const EVERY: Duration = Duration::from_millis(250);

/// What is to stand.
pub(crate) struct Plan {
    /// The word that tells that it does.
    word: &'static str,
    foreign: SocketAddrV4,
    local: SocketAddrV4,
    peer: Option<SocketAddrV4>,
    flags: Flags,
    is_udp: bool,
    command: Vec<OsString>,
}

impl From<Listen> for Plan {
    fn from(listen: Listen) -> Self {
        Self {
            word: "listening",
            foreign: listen.foreign,
            local: listen.local,
            peer: listen.peer,
            flags: Flags::LISTEN,
            is_udp: listen.udp,
            command: listen.command,
        }
    }
}

impl From<Assign> for Plan {
    fn from(assign: Assign) -> Self {
        Self {
            word: "assigned",
            foreign: assign.foreign,
            local: assign.local,
            peer: assign.peer,
            flags: assign.flags,
            is_udp: assign.udp,
            command: assign.command,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { word, flags, .. } = self;
        let proto = self.proto();
        write!(f, "{word} {proto} {} for {}", self.foreign, self.local)?;
        if let Some(peer) = self.peer {
            write!(f, " with {peer}")?;
        }
        write!(f, " [{flags}]")
    }
}

impl Plan {
    const fn proto(&self) -> &'static str {
        if self.is_udp { "udp" } else { "tcp" }
    }

    /// Tells that it stands. The output is the command's, if there is one.
    fn tell(&self, json: bool) -> io::Result<()> {
        let line = if json {
            let (foreign, local, peer) = (self.foreign, self.local, self.peer);
            let (flags, proto) = (self.flags.to_string(), self.proto());
            json!({ "event": self.word, "proto": proto, "foreign": foreign, "local": local,
                "peer": peer, "flags": flags })
            .to_string()
        } else {
            self.to_string()
        };
        let written = if self.command.is_empty() {
            let mut out = io::stdout().lock();
            writeln!(out, "{line}").and_then(|()| out.flush())
        } else {
            writeln!(io::stderr(), "{line}")
        };
        match written {
            // A script that has read the first line may not read on.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            written => written,
        }
    }
}

/// Registers, and holds it until a signal or the command's end.
pub(crate) fn run(runtime_dir: &Path, plan: &Plan, json: bool) -> Result<ExitCode, Failed> {
    let signals = Signals::take().map_err(|errno| Failed::Told(format!("signals: {errno}")))?;
    let registrar = Registrar::connect_to(runtime_dir)?;
    let mut hold = Hold {
        registrar: &registrar,
        plan,
        way: if plan.is_udp {
            Way::Borrowed(None)
        } else {
            Way::Placeholder(placeholder::bind(plan.local)?)
        },
        stands: false,
        stood: false,
        told: String::new(),
    };
    // A UDP command may be the one that binds the socket; a TCP one finds the registration.
    let mut child = if plan.is_udp {
        Child::start(&plan.command)?
    } else {
        None
    };
    let ended = hold.until_ended(&signals, &mut child, json);
    hold.end();
    ended
}

/// The socket that is registered.
enum Way {
    /// One of our own.
    Placeholder(Socket),
    /// Somebody else's; none as long as nobody is bound to the local address.
    Borrowed(Option<Borrowed>),
}

/// A registration, or the endeavour to make one.
struct Hold<'a> {
    registrar: &'a Registrar,
    plan: &'a Plan,
    way: Way,
    stands: bool,
    /// Whether it ever stood: then what goes wrong passes, or is for the user to end.
    stood: bool,
    /// What was told last, to tell it once.
    told: String,
}

impl Hold<'_> {
    fn until_ended(
        &mut self,
        signals: &Signals,
        child: &mut Option<Child>,
        json: bool,
    ) -> Result<ExitCode, Failed> {
        loop {
            match self.attempt() {
                Ok(true) => {
                    self.told.clear();
                    self.plan.tell(json)?;
                    if child.is_none() {
                        *child = Child::start(&self.plan.command)?;
                    }
                }
                Ok(false) => {}
                Err(failed) if !self.stood => return Err(failed),
                Err(failed) => self.warn(failed.to_string()),
            }
            if let Some(code) = child.as_mut().and_then(Child::code) {
                return Ok(code);
            }
            let signal = signals.wait(EVERY);
            let signal = signal.map_err(|errno| Failed::Told(format!("signals: {errno}")))?;
            let Some(signal) = signal.filter(|signal| ENDING.contains(signal)) else {
                continue;
            };
            match child {
                Some(child) => child.send(signal),
                None => return Ok(ExitCode::SUCCESS),
            }
        }
    }

    /// Sees to it that it stands; says whether it does since just now.
    fn attempt(&mut self) -> Result<bool, Failed> {
        if let Way::Borrowed(socket) = &mut self.way
            && !(self.stands && socket.as_ref().is_some_and(Borrowed::is_open))
        {
            self.stands = false;
            *socket = Borrowed::find(self.plan.local)?;
            if socket.is_none() {
                self.warn(format!("waiting for a UDP socket at {}", self.plan.local));
                return Ok(false);
            }
        }
        if self.stands && self.is_registered()? {
            self.told.clear();
            return Ok(false);
        }
        self.register()?;
        self.stands = true;
        self.stood = true;
        Ok(true)
    }

    fn register(&self) -> Result<(), Failed> {
        let Plan {
            foreign,
            peer,
            flags,
            ..
        } = *self.plan;
        match &self.way {
            Way::Placeholder(socket) => {
                let assign = || self.registrar.assign_with(socket, foreign, peer, flags);
                // With SO_REUSEADDR a taken address would make an entry that cannot listen.
                let assigned = if flags.contains(Flags::LISTEN) {
                    placeholder::unshared(socket, assign)?
                } else {
                    assign()
                };
                Ok(assigned?)
            }
            // Our copy is closed at once: the owner's close must be the last.
            Way::Borrowed(Some(socket)) => {
                let socket = socket.borrow()?;
                Ok(self.registrar.assign_with(&socket, foreign, peer, flags)?)
            }
            Way::Borrowed(None) => Ok(()),
        }
    }

    /// Whether the daemon still has it: one that was restarted may not.
    fn is_registered(&self) -> Result<bool, Failed> {
        let flags = match &self.way {
            Way::Placeholder(socket) => self.registrar.flags(socket),
            Way::Borrowed(Some(socket)) => self.registrar.flags(&socket.borrow()?),
            Way::Borrowed(None) => return Ok(false),
        };
        match flags {
            Ok(_) => Ok(true),
            Err(Error::Refused { errno, .. }) if errno == Errno::NOENT.raw_os_error() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn warn(&mut self, line: String) {
        if self.told != line {
            eprintln!("xtproxy: {line}");
            self.told = line;
        }
    }

    /// Takes it back. Whatever fails: the socket's own end does it too.
    fn end(&self) {
        if !self.stands {
            return;
        }
        let _ = match &self.way {
            Way::Placeholder(socket) => self.registrar.unassign(socket),
            Way::Borrowed(Some(socket)) => match socket.borrow() {
                Ok(socket) => self.registrar.unassign(&socket),
                Err(_) => Ok(()),
            },
            Way::Borrowed(None) => Ok(()),
        };
    }
}
