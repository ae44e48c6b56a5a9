//! How the rules in force change: a new ruleset, a trial that ends, new addresses, proxies that
//! have gone.
//!
//! Invariant: one change at a time, each by a new view with a higher generation, whole or not at
//! all; a trial that nobody keeps ends at its deadline.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use pipeline::View;
use policy::Endpoints;
use protocol::{ErrorKind, Failure, RulesChecked, RulesLoaded, RulesPending};
use server::LoadOrder;
use tables::Side;

use crate::draft::Draft;
use crate::listeners::Wanted;
use crate::machine::Facts;
use crate::own_connections;
use crate::rulebook::{NEW_SETS, Rulebook, SETS};
use crate::surroundings::{self, Surveyed};

/// How many rulebooks are remembered: workers may still log by one that has gone.
const BOOKS: usize = 4;
/// The longest trial.
const LONGEST_TRIAL: Duration = Duration::from_secs(24 * 3600);
/// How many warnings one answer carries.
const WARNINGS_MAX: usize = 100;

/// Rules on trial.
pub struct Trial {
    ticket: u64,
    deadline: Instant,
    former: Arc<Rulebook>,
}

/// The rules in force, and how they came to be.
pub struct Ruling {
    /// The rulebooks by the first generation that each was in force with; the last one is.
    books: BTreeMap<u32, Arc<Rulebook>>,
    trial: Option<Trial>,
    tickets: u64,
    /// What loading has warned of.
    pub warnings: Vec<String>,
    /// Whether links or addresses have changed that are not taken into account yet.
    is_behind: bool,
}

impl Ruling {
    /// With the rules of the start.
    pub fn new(book: Arc<Rulebook>, generation: u32, warnings: Vec<String>) -> Self {
        Self {
            books: BTreeMap::from([(generation, book)]),
            trial: None,
            tickets: 0,
            warnings,
            is_behind: false,
        }
    }

    /// The rules that a generation had.
    pub fn book_of(&self, generation: u32) -> Option<&Arc<Rulebook>> {
        let (_, book) = self.books.range(..=generation).next_back()?;
        Some(book)
    }

    /// The rules in force.
    pub fn book(&self) -> Option<&Arc<Rulebook>> {
        self.books.values().next_back()
    }

    /// Whether a trial's time is over.
    pub fn is_trial_over(&self, now: Instant) -> bool {
        self.trial
            .as_ref()
            .is_some_and(|trial| trial.deadline <= now)
    }

    /// The trial, for people.
    pub fn pending(&self, now: Instant) -> Option<RulesPending> {
        let trial = self.trial.as_ref()?;
        let (generation, book) = self.books.last_key_value()?;
        let left = trial.deadline.saturating_duration_since(now);
        Some(RulesPending {
            ticket: trial.ticket,
            ruleset: path_of(book),
            generation: *generation,
            left_ns: u64::try_from(left.as_nanos()).unwrap_or(u64::MAX),
        })
    }

    fn enter(&mut self, generation: u32, book: Arc<Rulebook>) {
        let is_same = self.book().is_some_and(|known| Arc::ptr_eq(known, &book));
        if !is_same {
            self.books.insert(generation, book);
        }
        while self.books.len() > BOOKS {
            self.books.pop_first();
        }
    }
}

fn path_of(book: &Rulebook) -> String {
    let path = book.path.as_deref().unwrap_or(Path::new(""));
    path.display().to_string()
}

fn refused(message: impl Into<String>) -> Failure {
    Failure::new(ErrorKind::Refused, message)
}

fn failed(error: &anyhow::Error) -> Failure {
    refused(format!("{error:#}"))
}

impl Facts {
    /// The turn to change what is in force.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules in force.
    pub fn book(&self) -> Arc<Rulebook> {
        let live = self.live();
        let book = live.ruling.book().map(Arc::clone);
        book.unwrap_or_else(|| Arc::new(Rulebook::empty(self.workers.len())))
    }

    /// View and rules that belong together.
    pub fn view_and_book(&self) -> (Arc<View>, Arc<Rulebook>) {
        let live = self.live();
        let view = self.view.load_full();
        let book = live
            .ruling
            .book_of(view.policy.generation())
            .map(Arc::clone);
        let book = book.unwrap_or_else(|| Arc::new(Rulebook::empty(self.workers.len())));
        (view, book)
    }

    /// Makes view and steering anew for these rules and the box as it is now. The caller has the
    /// turn. What `gone` names is not taken any longer.
    fn enforce(&self, book: &Arc<Rulebook>, gone: &[Endpoints]) -> Result<Enforced> {
        let before = self.view.load_full();
        let generation = before.policy.generation().wrapping_add(1).max(1);
        let snapshot = self.live().snapshot.clone();
        let taken: Vec<Endpoints> = before
            .proxies
            .iter()
            .filter(|set| !gone.contains(set))
            .cloned()
            .collect();
        let surveyed = surroundings::survey(
            &self.config,
            &self.constants,
            book,
            &snapshot,
            &taken,
            generation,
        )?;
        let Surveyed {
            mut view,
            mut steered,
            capture,
            warnings,
        } = surveyed;
        view.listening = before.listening.clone();
        view.epoch = before.epoch != (view.policy.owners() != before.policy.owners());
        steered.guard.epoch = view.epoch;
        let proxies = view.proxies.clone();
        let rules = book.ruleset.rule_count() as u64;
        let mut live = self.live();
        let live = &mut *live;
        let dataplane = live
            .dataplane
            .as_mut()
            .ok_or_else(|| anyhow!("the daemon is leaving"))?;
        let is_known = live
            .ruling
            .book()
            .is_some_and(|known| Arc::ptr_eq(known, book));
        let wanted = Wanted {
            nodes: capture,
            proxies,
            asks: book.asks_listeners(),
            counts_on: is_known,
        };
        if view.policy.guards() && !before.policy.guards() {
            let registered = dataplane.attachments.registered();
            own_connections::adopt(&dataplane.flows, &view, &registered.endpoints);
        }
        let former = dataplane.steered();
        let done = dataplane.update(view, steered);
        if let Err(error) = done.and_then(|()| self.listeners.set(wanted)) {
            if let Err(worse) = dataplane.update(View::clone(&before), former) {
                let worse = format!("{worse:#}");
                tracing::error!(error = worse, "steering is not as it was before");
            }
            return Err(error);
        }
        live.ruling.enter(generation, Arc::clone(book));
        let all = book.warnings.iter().cloned().chain(warnings);
        live.ruling.warnings = all.collect();
        live.ruling.is_behind = false;
        Ok(Enforced { generation, rules })
    }

    /// Takes new links and addresses into account.
    pub fn follow(&self) {
        let _turn = self.turn();
        let done = self.enforce(&self.book(), &[]);
        let mut live = self.live();
        let live = &mut *live;
        let Some(dataplane) = &mut live.dataplane else {
            return;
        };
        dataplane.forget_lost_endpoints();
        let done = done.and_then(|done| {
            dataplane.follow_macs(&live.snapshot)?;
            Ok(done)
        });
        match done {
            Ok(Enforced { generation, .. }) => tracing::info!(
                generation,
                "links or addresses changed; rules compiled anew"
            ),
            Err(error) => {
                live.ruling.is_behind = true;
                tracing::error!(
                    error = format!("{error:#}"),
                    "links or addresses changed; the daemon goes on with those from before"
                );
            }
        }
    }

    /// Tries again what [`Self::follow`] could not do.
    pub fn catch_up(&self) {
        if self.live().ruling.is_behind {
            self.follow();
        }
    }

    /// Notes new links and addresses; whether they change what is in force.
    pub fn note(&self, snapshot: host::Snapshot) -> bool {
        let macs = |of: &host::Snapshot| -> Vec<_> {
            let ports = self.config.ports.iter();
            let links = ports.map(|port| of.link(&port.interface));
            links
                .map(|link| link.map(|link| (link.ifindex, link.mac)))
                .collect()
        };
        let mut live = self.live();
        let before = std::mem::replace(&mut live.snapshot, snapshot);
        before.addresses != live.snapshot.addresses || macs(&before) != macs(&live.snapshot)
    }

    /// Tells workers who listens, if rules ask.
    pub fn look_for_listeners(&self) {
        let _turn = self.turn();
        match self.listeners.look() {
            Ok(listening) => {
                let view = self.view.load_full();
                if view.listening != listening {
                    let mut view = View::clone(&view);
                    view.listening = listening;
                    self.view.store(Arc::new(view));
                }
            }
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "the kernel does not tell who listens"
            ),
        }
    }

    /// Lets endpoints go that no rule redirects to any more, once nothing of a connection to them
    /// is left: no flow, and no socket that could still send.
    pub fn retire(&self) {
        let _turn = self.turn();
        let view = self.view.load_full();
        let wanted = view.policy.proxies();
        let mut idle: Vec<Endpoints> = view.proxies.clone();
        idle.retain(|set| !wanted.contains(set));
        if idle.is_empty() {
            return;
        }
        let Some(flows) = self.live().dataplane.as_ref().map(|d| Arc::clone(&d.flows)) else {
            return;
        };
        for found in flows.iter() {
            let local = match found.flow.reply.side() {
                Side::Host => found.flow.reply.tuple().src,
                Side::Wire | Side::OneWay => found.flow.orig.tuple().src,
            };
            idle.retain(|set| !holds(set, found.flow.orig.tuple().proto.0, local.addr, local.port));
        }
        let Ok(used) = sockets::in_use() else { return };
        for (proto, at) in used {
            idle.retain(|set| !holds(set, proto, *at.ip(), at.port()));
        }
        if idle.is_empty() {
            return;
        }
        match self.enforce(&self.book(), &idle) {
            Ok(_) => tracing::debug!(count = idle.len(), "endpoints of former rules let go"),
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "endpoints of former rules stay taken"
            ),
        }
    }

    /// Ends a trial whose time is over.
    pub fn end_trial(&self) {
        let _turn = self.turn();
        let over = {
            let ruling = &self.live().ruling;
            ruling
                .trial
                .as_ref()
                .filter(|trial| trial.deadline <= Instant::now())
                .map(|trial| trial.ticket)
        };
        if let Some(ticket) = over
            && let Err(error) = self.restore(ticket)
        {
            tracing::error!(
                error = format!("{error:#}"),
                "the former rules are not back"
            );
        }
    }

    /// Puts the rules back that were in force before a trial. The caller has the turn. If that
    /// fails the trial stands, and is ended again later.
    fn restore(&self, ticket: u64) -> Result<()> {
        let former = {
            let live = self.live();
            let trial = live.ruling.trial.as_ref();
            let trial = trial.filter(|trial| trial.ticket == ticket);
            Arc::clone(&trial.context("there is no such trial")?.former)
        };
        let Enforced { generation, .. } = self.enforce(&former, &[])?;
        self.live().ruling.trial = None;
        tracing::info!(
            generation,
            ruleset = path_of(&former),
            "trial over: the former rules are back"
        );
        Ok(())
    }

    /// Reads the configured ruleset again.
    pub fn reload(&self) {
        let Some(path) = &self.config.ruleset else {
            tracing::warn!("SIGHUP: there is no ruleset to read again");
            return;
        };
        let done = Rulebook::read_with_sets(path, self.workers.len()).and_then(|book| {
            let _turn = self.turn();
            let done = self.enforce(&Arc::new(book), &[])?;
            self.live().ruling.trial = None;
            Ok(done)
        });
        match done {
            Ok(Enforced { generation, rules }) => {
                tracing::info!(generation, rules, "SIGHUP: the ruleset was read again");
                self.tell_warnings();
            }
            Err(error) => tracing::error!(
                error = format!("{error:#}"),
                "SIGHUP: the rules stay as they were"
            ),
        }
    }

    fn tell_warnings(&self) {
        for warning in &self.live().ruling.warnings {
            tracing::warn!("{warning}");
        }
    }

    /// Puts a ruleset in force.
    pub fn load_rules(
        &self,
        order: &LoadOrder,
        progress: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<RulesLoaded, Failure> {
        let trial = order.try_for.map(|time| time.min(LONGEST_TRIAL));
        if trial.is_some() && order.replace.is_some() {
            return Err(refused("a trial replaces no file; commit it afterwards"));
        }
        let mut book = self.read_rules(&order.ruleset, order.sets.as_deref(), progress)?;
        if let Some(target) = &order.replace {
            book.path = Some(target.clone());
        }
        let book = Arc::new(book);
        let _turn = self.turn();
        let former = self.book();
        if trial.is_some() && self.live().ruling.trial.is_some() {
            return Err(refused(
                "another trial is running: keep it, end it, or wait until it is over",
            ));
        }
        progress("compile", 0, 0);
        // On the disk before the rules are in force, and in its place after.
        let drafts = drafts(order, &book).map_err(|error| failed(&error))?;
        let done = self.enforce(&book, &[]).map_err(|error| failed(&error))?;
        if let Err(error) = drafts.into_iter().try_for_each(Draft::put) {
            let back = self.enforce(&former, &[]);
            let told = match back {
                Ok(_) => format!("{error:#}; the former rules stay in force"),
                Err(worse) => format!("{error:#}; the new rules are in force: {worse:#}"),
            };
            return Err(refused(told));
        }
        // What was new is not any more; left there, it would outlive later changes.
        if order.replace.is_some()
            && let Some(sets) = order.sets.as_ref().filter(|sets| is_new_sets(sets))
        {
            let _ = std::fs::remove_file(sets);
        }
        let mut live = self.live();
        let ticket = trial.map(|time| {
            live.ruling.tickets += 1;
            live.ruling.trial = Some(Trial {
                ticket: live.ruling.tickets,
                deadline: Instant::now() + time,
                former,
            });
            live.ruling.tickets
        });
        let ended = if ticket.is_none() {
            live.ruling.trial.take()
        } else {
            None
        };
        let flows = live
            .dataplane
            .as_ref()
            .map(|d| d.flows.counts().live as u64);
        let Enforced { generation, rules } = done;
        tracing::info!(
            generation,
            rules,
            ruleset = path_of(&book),
            trial = trial.map(|time| time.as_secs()),
            "new rules in force"
        );
        let mut warnings = live.ruling.warnings.clone();
        drop(live);
        self.tell_warnings();
        if ended.is_some() {
            warnings.insert(0, "a trial was running: it has ended with this".to_owned());
        }
        Ok(RulesLoaded {
            generation,
            rules,
            warnings_left: left_out(&warnings),
            warnings: warnings.into_iter().take(WARNINGS_MAX).collect(),
            ticket,
            flows: flows.unwrap_or(0),
        })
    }

    /// Reads and compiles a ruleset, and does nothing with it.
    pub fn check_rules(
        &self,
        order: &LoadOrder,
        progress: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<RulesChecked, Failure> {
        let book = self.read_rules(&order.ruleset, order.sets.as_deref(), progress)?;
        progress("compile", 0, 0);
        let snapshot = self.live().snapshot.clone();
        let surveyed =
            surroundings::survey(&self.config, &self.constants, &book, &snapshot, &[], 0);
        let surveyed = surveyed.map_err(|error| failed(&error))?;
        let warnings: Vec<String> = book
            .warnings
            .iter()
            .cloned()
            .chain(surveyed.warnings)
            .collect();
        Ok(RulesChecked {
            rules: book.ruleset.rule_count() as u64,
            warnings_left: left_out(&warnings),
            warnings: warnings.into_iter().take(WARNINGS_MAX).collect(),
        })
    }

    fn read_rules(
        &self,
        path: &Path,
        sets: Option<&Path>,
        progress: &mut dyn FnMut(&str, u64, u64),
    ) -> Result<Rulebook, Failure> {
        let mut lines = |done, total| progress("read", done, total);
        Rulebook::read(path, sets, self.workers.len(), &mut lines).map_err(|error| failed(&error))
    }

    /// Makes the rules of a trial stay.
    pub fn keep_rules(&self, ticket: u64) -> Result<(), Failure> {
        let _turn = self.turn();
        let mut live = self.live();
        match live.ruling.trial.take_if(|trial| trial.ticket == ticket) {
            Some(_) => {
                tracing::info!("trial over: the new rules stay, until the next start");
                Ok(())
            }
            None => Err(no_trial()),
        }
    }

    /// Ends a trial before its time.
    pub fn revert_rules(&self, ticket: u64) -> Result<(), Failure> {
        let _turn = self.turn();
        let is_there = {
            let live = self.live();
            let trial = live.ruling.trial.as_ref();
            trial.is_some_and(|trial| trial.ticket == ticket)
        };
        if !is_there {
            return Err(no_trial());
        }
        self.restore(ticket).map_err(|error| failed(&error))
    }
}

/// What has been put in force.
struct Enforced {
    generation: u32,
    rules: u64,
}

fn no_trial() -> Failure {
    refused("that trial is over; `xtproxy status` tells which rules are in force")
}

fn left_out(warnings: &[String]) -> u64 {
    warnings.len().saturating_sub(WARNINGS_MAX) as u64
}

fn holds(set: &Endpoints, proto: u8, addr: std::net::Ipv4Addr, port: u16) -> bool {
    (set.proto.0 == 0 || set.proto.0 == proto) && set.addr == addr && set.ports.contains(&port)
}

fn is_new_sets(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == NEW_SETS)
}

/// The files that a commit replaces, written and not in their places yet: the ruleset's, and that of
/// its sets where these are new.
fn drafts(order: &LoadOrder, book: &Rulebook) -> Result<Vec<Draft>> {
    let Some(target) = &order.replace else {
        return Ok(Vec::new());
    };
    let mut drafts = Vec::new();
    if let Some(sets) = order.sets.as_ref().filter(|sets| is_new_sets(sets)) {
        drafts.push(Draft::write(&sets.with_file_name(SETS), &book.sets_text)?);
    }
    drafts.push(Draft::write(target, &book.text)?);
    Ok(drafts)
}
