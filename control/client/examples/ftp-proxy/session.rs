//! One client's conversation with its server: passes on what both say and opens the way
//! for the data that they agree on.
//!
//! Invariant: a reply that names a data address is passed on only when somebody listens
//! there. Never here: a client's words in the log, for they hold passwords.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use crate::Proxy;
use crate::command::{Command, Form, comma_separated, objection};
use crate::data::{Door, Onward, Visit, ipv4};
use crate::line::Lines;
use crate::reply::{Part, Replies, extended_passive, harmless, passive};
use crate::turns::{Turn, Turns};
use crate::urgent::{Reader, interrupt};

/// How long a command about data waits for answers to those before it.
const HOLD: Duration = Duration::from_secs(5);
/// How long an end may take to read what it is told.
const WRITE_TIME: Duration = Duration::from_secs(30);

/// A conversation that goes on.
pub(crate) struct Session {
    proxy: Arc<Proxy>,
    client: Ipv4Addr,
    server: Ipv4Addr,
    /// The box's address that listens for the client's data connections.
    client_side: Ipv4Addr,
    /// The same for the server's.
    server_side: Ipv4Addr,
    to_client: OwnedWriteHalf,
    /// `None` when the client has said its last word.
    to_server: Option<OwnedWriteHalf>,
    replies: Replies,
    turns: Turns,
    /// A command about data, and until when it waits for its turn.
    held: Option<(Command, Instant)>,
    /// The data connection to come, and how it will go on.
    awaited: Option<(Visit, Onward)>,
    transfers: JoinSet<()>,
}

/// What can happen next.
enum Event {
    Command(Option<Vec<u8>>),
    Reply(Option<Vec<u8>>),
    Came(Option<(TcpStream, SocketAddrV4)>),
    Held,
    Transferred,
    Idle,
}

/// Talks until both have ended; `client` and `server` are their true addresses.
pub(crate) async fn talk(
    proxy: Arc<Proxy>,
    (accepted, client): (TcpStream, SocketAddrV4),
    (onward, server): (TcpStream, SocketAddrV4),
) -> io::Result<()> {
    let side = |chosen: Option<Ipv4Addr>, stream: &TcpStream| match chosen {
        Some(chosen) => Ok(chosen),
        None => Ok::<_, io::Error>(*ipv4(stream.local_addr()?)?.ip()),
    };
    let client_side = side(proxy.arguments.local_client_side, &accepted)?;
    let server_side = side(proxy.arguments.local_server_side, &onward)?;
    let (commands, to_client) = accepted.into_split();
    let (replies, to_server) = onward.into_split();
    let (commands, replies) = (Reader::new(commands)?, Reader::new(replies)?);
    let mut session = Session {
        proxy,
        client: *client.ip(),
        server: *server.ip(),
        client_side,
        server_side,
        to_client,
        to_server: Some(to_server),
        replies: Replies::default(),
        turns: Turns::new(),
        held: None,
        awaited: None,
        transfers: JoinSet::new(),
    };
    let ended = session.run(Lines::new(commands), Lines::new(replies)).await;
    // A server that ends after QUIT may do so before the last bytes have gone their way. And
    // what is cut off here looks like a whole file there.
    let mut transfers = std::mem::take(&mut session.transfers);
    drop(session);
    while transfers.join_next().await.is_some() {}
    ended
}

impl Session {
    async fn run(
        &mut self,
        mut commands: Lines<Reader>,
        mut replies: Lines<Reader>,
    ) -> io::Result<()> {
        loop {
            match self.event(&mut commands, &mut replies).await? {
                Event::Command(Some(line)) => self.hear(Command::parse(&line)).await?,
                Event::Command(None) => self.to_server = None,
                Event::Reply(Some(line)) => self.reply(line).await?,
                Event::Reply(None) => return self.to_client.shutdown().await,
                Event::Came(came) => self.came(came),
                Event::Held => self.unhold().await?,
                Event::Transferred => {}
                Event::Idle => {
                    self.tell(b"421 Nothing was said for too long.").await?;
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "idle"));
                }
            }
            if self.turns.is_empty() {
                self.unhold().await?;
            }
        }
    }

    async fn event(
        &mut self,
        commands: &mut Lines<Reader>,
        replies: &mut Lines<Reader>,
    ) -> io::Result<Event> {
        let listens = self.to_server.is_some() && self.held.is_none() && self.turns.has_room();
        let idle = Instant::now() + self.proxy.idle_timeout();
        let held = self.held.as_ref().map_or(idle, |(_, until)| *until);
        let awaited = self.awaited.as_mut().map(|(visit, _)| visit);
        // In this order: data comes before the reply that says that it is complete.
        tokio::select! {
            biased;
            Some(came) = async { Some(awaited?.await) } => Ok(Event::Came(came)),
            line = replies.next() => line.map(Event::Reply),
            line = commands.next(), if listens => line.map(Event::Command),
            Some(_) = self.transfers.join_next() => Ok(Event::Transferred),
            () = sleep_until(held), if self.held.is_some() => Ok(Event::Held),
            () = sleep_until(idle), if self.transfers.is_empty() => Ok(Event::Idle),
        }
    }

    /// Takes a command. One about data waits until those before it are answered: it would
    /// end the listener that they may still need.
    async fn hear(&mut self, command: Command) -> io::Result<()> {
        let is_about_data = matches!(command, Command::Active { .. } | Command::Passive(_));
        if is_about_data && !self.turns.is_empty() {
            self.held = Some((command, Instant::now() + HOLD));
            return Ok(());
        }
        match command {
            Command::Active { form, at } => self.active(form, at).await,
            Command::Passive(line) => {
                self.awaited = None;
                self.pass(&line, Turn::Passive).await
            }
            Command::Passed { line, is_urgent } => {
                if is_urgent {
                    self.interrupt().await?;
                }
                self.pass(&line, Turn::Other).await
            }
            Command::Refused(answer) => self.answer(answer).await,
        }
    }

    async fn unhold(&mut self) -> io::Result<()> {
        match self.held.take() {
            Some((Command::Active { form, at }, _)) => self.active(form, at).await,
            Some((Command::Passive(line), _)) => {
                self.awaited = None;
                self.pass(&line, Turn::Passive).await
            }
            _ => Ok(()),
        }
    }

    /// The client listens at `at`: listens there, or in its place.
    async fn active(&mut self, form: Form, at: SocketAddrV4) -> io::Result<()> {
        self.awaited = None;
        if let Some(objection) = objection(at, self.client) {
            warn!("{} names {at} for its data: refused", self.client);
            return self.answer(objection).await;
        }
        let opened = if self.proxy.arguments.as_client {
            let door = self.proxy.listen_at(at, self.server_side).await;
            door.map(|door| (door, at))
        } else {
            Door::own(self.server_side).map_err(Into::into)
        };
        match opened {
            Ok((door, named)) => {
                let visit = door.wait(self.server, self.proxy.data_timeout());
                self.awaited = Some((visit, Onward::ToClient { to: at }));
                self.pass(form.line(named).as_bytes(), Turn::Active).await
            }
            Err(error) => {
                warn!("cannot listen for data to {at}: {error}");
                self.answer("425 The proxy cannot listen for your data.")
                    .await
            }
        }
    }

    /// Passes a reply on, and what the proxy itself has to say behind it.
    async fn reply(&mut self, line: Vec<u8>) -> io::Result<()> {
        let line = harmless(line);
        let part = self.replies.take(&line).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "the server does not speak FTP")
        })?;
        let Part::Last(code) = part else {
            return self.tell(&line).await;
        };
        let line = match self.turns.answered(code) {
            Some(Turn::Passive) if matches!(code, 227 | 229) => self.passive(code, line).await,
            Some(Turn::Active) if code >= 400 => {
                self.awaited = None;
                line
            }
            _ => line,
        };
        self.tell(&line).await?;
        while let Some(answer) = self.turns.own() {
            self.tell(answer.as_bytes()).await?;
        }
        Ok(())
    }

    /// The server listens: listens in its place. Returns what the client shall be told.
    async fn passive(&mut self, code: u16, line: Vec<u8>) -> Vec<u8> {
        let named = if code == 227 {
            passive(&line)
        } else {
            extended_passive(&line).map(|port| SocketAddrV4::new(self.server, port))
        };
        let Some(named) = named else {
            warn!("{} answers {code} without a port", self.server);
            return b"425 The server does not say where it listens.".to_vec();
        };
        // A server behind a NAT names an address that nobody here can reach, and a hostile
        // one names somebody else's.
        let to = SocketAddrV4::new(self.server, named.port());
        match self.proxy.listen_at(to, self.client_side).await {
            Ok(door) => {
                let visit = door.wait(self.client, self.proxy.data_timeout());
                let in_name_of = self.proxy.arguments.as_client.then_some(self.client);
                self.awaited = Some((visit, Onward::ToServer { to, in_name_of }));
            }
            Err(error) => {
                warn!("cannot listen for data at {to}: {error}");
                return b"425 The proxy cannot listen for your data.".to_vec();
            }
        }
        if named == to {
            return line;
        }
        info!("{} names {named} for its data: {to} is meant", self.server);
        format!("227 Entering Passive Mode ({}).", comma_separated(to)).into_bytes()
    }

    /// The data connection has come, or nobody in time.
    fn came(&mut self, came: Option<(TcpStream, SocketAddrV4)>) {
        match (self.awaited.take(), came) {
            (Some((_, onward)), Some((stream, source))) => {
                let proxy = Arc::clone(&self.proxy);
                self.transfers.spawn(proxy.transfer(stream, source, onward));
            }
            (Some((_, onward)), None) => {
                warn!("{}: no {onward} data connection came in time", self.client);
            }
            (None, _) => {}
        }
    }

    /// Answers in place of the server, when the commands before are answered.
    async fn answer(&mut self, answer: &str) -> io::Result<()> {
        if self.turns.is_empty() {
            return self.tell(answer.as_bytes()).await;
        }
        self.turns.put(Turn::Own(answer.to_owned()));
        Ok(())
    }

    async fn tell(&mut self, line: &[u8]) -> io::Result<()> {
        write(&mut self.to_client, line).await
    }

    async fn pass(&mut self, line: &[u8], turn: Turn) -> io::Result<()> {
        self.turns.put(turn);
        match &mut self.to_server {
            Some(to_server) => write(to_server, line).await,
            None => Ok(()),
        }
    }

    /// Sends Telnet's interrupt the way that servers look for it: as urgent data.
    async fn interrupt(&mut self) -> io::Result<()> {
        let Some(to_server) = &mut self.to_server else {
            return Ok(());
        };
        timeout(WRITE_TIME, interrupt(to_server)).await?
    }
}

async fn write(to: &mut OwnedWriteHalf, line: &[u8]) -> io::Result<()> {
    let line = [line, b"\r\n"].concat();
    timeout(WRITE_TIME, to.write_all(&line)).await?
}
