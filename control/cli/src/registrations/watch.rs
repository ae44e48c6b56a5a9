//! `xtproxy registrations --watch`: what came, changed and went.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use protocol::Registration;
use serde::Serialize;

use super::Source;
use crate::arguments::Registrations;
use crate::run::Failed;
use crate::show;
use crate::signals::{ENDING, Signals};

/// How often to look.
const EVERY: Duration = Duration::from_secs(1);

/// Tells changes until a signal comes, or the bounds of the arguments are met.
pub(super) fn run(
    runtime_dir: &Path,
    arguments: &Registrations,
    json: bool,
    out: &mut impl Write,
) -> Result<(), Failed> {
    let signals = Signals::take().map_err(|errno| Failed::Told(format!("signals: {errno}")))?;
    let mut source = Source::new(runtime_dir, &arguments.filter);
    let deadline = (arguments.seconds)
        .and_then(|seconds| Instant::now().checked_add(Duration::from_secs(seconds.into())));
    let mut seen = Seen::default();
    let mut left = arguments.count.unwrap_or(u64::MAX);
    let mut first = Some(source.rows()?);
    let mut is_silent = false;
    loop {
        let rows = match first.take() {
            Some(rows) => Ok(rows),
            None => source.rows(),
        };
        match rows {
            Ok(rows) => {
                is_silent = false;
                for event in seen.compare(rows) {
                    event.print(json, out)?;
                    left -= u64::from(event.event != What::There);
                    if left == 0 {
                        return Ok(out.flush()?);
                    }
                }
            }
            // The daemon is being restarted: what it adopts has not changed.
            Err(failed) if !is_silent => {
                is_silent = true;
                eprintln!("xtproxy: {failed}; still watching");
            }
            Err(_) => {}
        }
        out.flush()?;
        let rest = deadline.map_or(EVERY, |at| at.saturating_duration_since(Instant::now()));
        if rest.is_zero() || is_ended(&signals, rest.min(EVERY))? {
            return Ok(());
        }
    }
}

/// Whether a signal asks to end within this time.
fn is_ended(signals: &Signals, within: Duration) -> Result<bool, Failed> {
    let signal = signals.wait(within);
    let signal = signal.map_err(|errno| Failed::Told(format!("signals: {errno}")))?;
    Ok(signal.is_some_and(|signal| ENDING.contains(&signal)))
}

/// What happened to a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum What {
    /// It was there at the first look.
    There,
    Came,
    Changed,
    Went,
}

/// One line.
#[derive(Debug, Serialize)]
struct Event {
    time: String,
    event: What,
    registration: Registration,
}

impl Event {
    fn new(event: What, registration: Registration) -> Self {
        let time = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        Self {
            time,
            event,
            registration,
        }
    }

    fn print(&self, json: bool, out: &mut impl Write) -> Result<(), Failed> {
        if json {
            let line = serde_json::to_string(self).map_err(std::io::Error::from)?;
            return Ok(writeln!(out, "{line}")?);
        }
        let what = match self.event {
            What::There => "there",
            What::Came => "came",
            What::Changed => "changed",
            What::Went => "went",
        };
        let row = show::registration(&self.registration);
        Ok(writeln!(out, "{} {what:<7} {row}", self.time)?)
    }
}

/// What two registrations at a time cannot have in common.
type Key = (String, SocketAddr, Option<SocketAddr>, SocketAddr);

/// What was seen at the last look.
#[derive(Default)]
struct Seen {
    last: Option<BTreeMap<Key, Registration>>,
}

impl Seen {
    /// What has happened since the last look.
    fn compare(&mut self, rows: Vec<Registration>) -> Vec<Event> {
        let is_first = self.last.is_none();
        let mut before = self.last.take().unwrap_or_default();
        let mut now = BTreeMap::new();
        let mut events = Vec::new();
        for row in rows {
            match take_same(&mut before, &row) {
                None if is_first => events.push(Event::new(What::There, row.clone())),
                None => events.push(Event::new(What::Came, row.clone())),
                Some(old) if is_anew(&old, &row) => {
                    events.push(Event::new(What::Went, old));
                    events.push(Event::new(What::Came, row.clone()));
                }
                Some(old) if is_changed(&old, &row) => {
                    events.push(Event::new(What::Changed, row.clone()));
                }
                Some(_) => {}
            }
            now.insert(key(&row), row);
        }
        let went = before.into_values().map(|old| Event::new(What::Went, old));
        let mut all: Vec<_> = went.collect();
        all.append(&mut events);
        self.last = Some(now);
        all
    }
}

fn key(row: &Registration) -> Key {
    (row.proto.clone(), row.local, row.peer, row.foreign)
}

/// The same registration as it was. Its foreign port and its peer can be set later.
fn take_same(before: &mut BTreeMap<Key, Registration>, row: &Registration) -> Option<Registration> {
    let (proto, local, peer, foreign) = key(row);
    let unset = SocketAddr::new(foreign.ip(), 0);
    [
        (peer, foreign),
        (peer, unset),
        (None, foreign),
        (None, unset),
    ]
    .into_iter()
    .find_map(|(peer, foreign)| before.remove(&(proto.clone(), local, peer, foreign)))
}

/// Whether it is another one in the place of the old.
fn is_anew(old: &Registration, row: &Registration) -> bool {
    row.age_ns < old.age_ns || row.pid != old.pid
}

fn is_changed(old: &Registration, row: &Registration) -> bool {
    let without_age = Registration {
        age_ns: old.age_ns,
        ..row.clone()
    };
    *old != without_age
}

#[cfg(test)]
mod tests {
    use protocol::{FlagName, RegistrationState};

    use super::*;

    fn row(local: &str, foreign: &str, age_ns: u64) -> Registration {
        Registration {
            proto: "tcp".into(),
            foreign: foreign.parse().unwrap(),
            local: local.parse().unwrap(),
            peer: None,
            flags: 1,
            uses: FlagName::list(1),
            state: RegistrationState::Live,
            flows: 0,
            pid: 1,
            uid: 0,
            user: None,
            command: "p".into(),
            age_ns,
        }
    }

    fn told(seen: &mut Seen, rows: &[Registration]) -> Vec<(What, String)> {
        let events = seen.compare(rows.to_vec());
        let one = |event: Event| (event.event, event.registration.local.port().to_string());
        events.into_iter().map(one).collect()
    }

    #[test]
    fn what_happens_is_told_once() {
        let mut seen = Seen::default();
        let a = row("10.0.0.1:1", "203.0.113.1:0", 5);
        let b = row("10.0.0.1:2", "203.0.113.1:2", 5);
        let is = |what, port: &str| (what, port.to_owned());
        assert_eq!(
            told(&mut seen, std::slice::from_ref(&a)),
            [is(What::There, "1")]
        );
        let older = Registration {
            age_ns: 9,
            ..a.clone()
        };
        let both = [older.clone(), b.clone()];
        assert_eq!(told(&mut seen, &both), [is(What::Came, "2")]);
        assert_eq!(told(&mut seen, &both), []);
        // Its port was chosen.
        let chosen = row("10.0.0.1:1", "203.0.113.1:77", 10);
        let both = [chosen.clone(), b.clone()];
        assert_eq!(told(&mut seen, &both), [is(What::Changed, "1")]);
        let orphan = Registration {
            state: RegistrationState::Orphan,
            ..b
        };
        let both = [chosen, orphan];
        assert_eq!(told(&mut seen, &both), [is(What::Changed, "2")]);
        // Another one in its place.
        let anew = row("10.0.0.1:1", "203.0.113.1:77", 1);
        let events = [
            is(What::Went, "2"),
            is(What::Went, "1"),
            is(What::Came, "1"),
        ];
        assert_eq!(told(&mut seen, &[anew]), events);
        assert_eq!(told(&mut seen, &[]), [is(What::Went, "1")]);
        assert_eq!(told(&mut seen, &[a]), [is(What::Came, "1")]);
    }
}
