//! The daemon's life: check, start, serve, leave.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use host::{Change, Changes, Netlink, RuntimeDir, Watch};
use server::{Server, Sources, WorkerSource};
use tokio::signal::unix::{SignalKind, signal};

use crate::bringup::{self, Dataplane, Plan};
use crate::config::Config;
use crate::listeners::{Listeners, Wanted};
use crate::machine::{Facts, Live};
use crate::rulebook::Rulebook;
use crate::ruling::Ruling;
use crate::surroundings::Surveyed;
use crate::{detach, own_connections, surroundings};

/// How often the daemon looks whether its workers are alive.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often it is looked who listens, where rules ask.
const LISTENERS_EVERY: Duration = Duration::from_millis(200);
/// How long work aside may go on when the daemon leaves.
const LONGEST_END: Duration = Duration::from_secs(2);
/// How often a trial's end is looked for.
const TRIAL_EVERY: Duration = Duration::from_millis(100);

/// Configuration and ruleset, both valid.
fn load(path: &Path) -> Result<(Config, Rulebook)> {
    let config = Config::load(path)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let cores = bringup::listed_cores(&config).len();
    let book = match &config.ruleset {
        Some(ruleset) => Rulebook::read_with_sets(ruleset, cores)?,
        None => Rulebook::empty(cores),
    };
    Ok((config, book))
}

/// Validates and says so.
pub fn check(path: &Path) -> Result<()> {
    let (config, book) = load(path)?;
    let zones = Arc::new(config.policy_zones()?);
    for warning in surroundings::check(&config, &zones, &book)? {
        tracing::warn!("{warning}");
    }
    let rules = book.ruleset.rule_count();
    println!(
        "{}: valid; {} ports, {rules} rules",
        path.display(),
        config.ports.len()
    );
    Ok(())
}

/// Runs until it is told to stop.
pub fn run(path: &Path) -> Result<()> {
    let started = Instant::now();
    let (config, book) = load(path)?;
    host::require_privileges()?;
    host::check_kernel()?;
    xsk::kernel_has_af_xdp()?;
    // One thread: netlink, the control socket and expiry; packets are the workers'.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control thread")?;
    let done = runtime.block_on(async {
        let dir = RuntimeDir::claim(&config.runtime_dir)?;
        let done = live(path, config, book, started, &dir).await;
        let left = dir.leave();
        done?;
        Ok(left?)
    });
    // A file system that does not answer must not hold up the end.
    runtime.shutdown_timeout(LONGEST_END);
    done
}

async fn live(
    path: &Path,
    config: Config,
    book: Rulebook,
    started: Instant,
    dir: &RuntimeDir,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let netlink = Netlink::open()?;
    let links = bringup::links(&config, &netlink).await?;
    let mut watch = Watch::open(&netlink).await?;
    let cores = bringup::cores(&config, watch.current())?;
    let mut changes = Changes::open(dir.path())?;
    let was_clean = changes.list().is_empty();
    // Programs that stand without a journal: another daemon's, or of one whose journal was lost.
    let has_program =
        |link: &&host::Link| xdp_prog::stale(link.ifindex).map_or(true, |stale| !stale.is_empty());
    let standing = links.iter().filter(has_program);
    let kept: Vec<u32> = standing.map(|link| link.ifindex).collect();
    let constants = bringup::constants(&config)?;
    let surveyed = surroundings::survey(&config, &constants, &book, watch.current(), &[], 1)?;
    let Surveyed {
        view,
        steered,
        capture,
        warnings,
    } = surveyed;
    let rule_warnings: Vec<String> = book.warnings.iter().cloned().chain(warnings).collect();
    let warnings = left_behind(&config, &changes);
    for warning in warnings.iter().chain(&rule_warnings) {
        tracing::warn!("{warning}");
    }
    let plan = Plan {
        config: &config,
        constants: &constants,
        view,
        steered,
        links,
        cores,
        dir: dir.path(),
    };
    let dataplane = match bringup::start(plan, &netlink, &mut changes).await {
        Ok(dataplane) => dataplane,
        Err(error) => {
            // What an earlier daemon left stays, since it keeps transit closed. What this one
            // alone has begun goes.
            if was_clean {
                detach::undo(&netlink, &mut changes, &kept).await;
            }
            return Err(error);
        }
    };
    let registered = dataplane.attachments.registered().clone();
    let listeners = Listeners::new(registered.sockets.clone());
    let (flows, workers) = (Arc::clone(&dataplane.flows), worker_sources(&dataplane));
    let registry = Arc::clone(&dataplane.registry);
    let timeouts = config.flow_timeouts();
    let facts = Arc::new(Facts {
        config,
        config_path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        constants,
        started,
        view: Arc::clone(&dataplane.view),
        workers: dataplane
            .workers
            .iter()
            .map(|worker| Arc::clone(&worker.stats))
            .collect(),
        warnings,
        listeners,
        turn: Mutex::new(()),
        live: Mutex::new(Live {
            dataplane: Some(dataplane),
            ruling: Ruling::new(Arc::new(book), 1, rule_warnings),
            snapshot: watch.current().clone(),
            state: "ready",
            changes: changes.list().to_vec(),
        }),
    });
    let view = facts.view.load_full();
    if view.policy.guards() {
        own_connections::adopt(&flows, &view, &registered.endpoints);
    }
    let begun = facts.listeners.set(Wanted {
        nodes: capture,
        proxies: view.proxies.clone(),
        asks: facts.book().asks_listeners(),
        counts_on: false,
    });
    facts.look_for_listeners();
    let machine = Arc::clone(&facts) as Arc<dyn server::Machine>;
    let sources = Sources {
        flows,
        registry,
        timeouts,
        workers,
        machine,
    };
    let server = begun.and_then(|()| Ok(Server::bind(dir.path(), sources)?));
    let server = match server {
        Ok(server) => server,
        Err(error) => {
            leave(&facts);
            if was_clean {
                detach::undo(&netlink, &mut changes, &kept).await;
            }
            return Err(error);
        }
    };
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut serving = tokio::spawn(server.run(async {
        // A dropped sender ends the server too.
        let _ = stopped.await;
    }));

    tracing::info!(ports = facts.config.ports.len(), "ready");
    // Outside systemd there is nobody to notify.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let mut look = tokio::time::interval(LOOK_EVERY);
    let mut trial = tokio::time::interval(TRIAL_EVERY);
    let watching = Watching::begin(&facts)?;
    let done = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => aside(&facts, Facts::reload),
            ended = &mut serving => {
                break ended.context("the control thread failed").and_then(|r| r.context("the control socket failed"));
            }
            changed = watch.changed() => match changed {
                Ok(snapshot) => {
                    if facts.note(snapshot.clone()) {
                        aside(&facts, Facts::follow);
                    }
                }
                Err(error) => break Err(error.into()),
            },
            _ = trial.tick() => {
                if facts.live().ruling.is_trial_over(Instant::now()) {
                    aside(&facts, Facts::end_trial);
                }
            }
            _ = look.tick() => {
                if !facts.live().dataplane.as_ref().is_some_and(Dataplane::is_alive) {
                    break Err(anyhow!("a worker has failed; see the log"));
                }
            }
        }
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    drop(watching);
    leave(&facts);
    drop(stop);
    if !serving.is_finished() {
        // The answer is of no interest any more; the sockets' removal is.
        let _ = serving.await;
    }
    done
}

/// Ports of an earlier configuration: their programs stay, and keep them closed.
fn left_behind(config: &Config, changes: &Changes) -> Vec<String> {
    let left = changes.list().iter().filter_map(|change| match change {
        Change::Xdp { interface, .. } => Some(interface),
        _ => None,
    });
    let left = left.filter(|left| config.ports.iter().all(|port| port.interface != **left));
    left.map(|interface| {
        format!("{interface} is no port any more and stays closed: xtproxyd --detach gives it back")
    })
    .collect()
}

/// Does what may take its time on a thread of its own: the control thread goes on.
fn aside(facts: &Arc<Facts>, work: fn(&Facts)) {
    let facts = Arc::clone(facts);
    tokio::task::spawn_blocking(move || work(&facts));
}

/// The thread that looks who listens, and which endpoints are free again.
struct Watching {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    fn begin(facts: &Arc<Facts>) -> Result<Self> {
        let (stop, facts) = (Arc::new(AtomicBool::new(false)), Arc::clone(facts));
        let told = Arc::clone(&stop);
        let thread = std::thread::Builder::new()
            .name("xtp-watch".to_owned())
            .spawn(move || {
                let mut retired = Instant::now();
                while !told.load(Ordering::Relaxed) {
                    std::thread::sleep(LISTENERS_EVERY);
                    facts.look_for_listeners();
                    if retired.elapsed() >= LOOK_EVERY {
                        facts.catch_up();
                        facts.retire();
                        retired = Instant::now();
                    }
                }
            })
            .context("cannot start a thread")?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Stops the workers. What is attached stays: without sockets, steering does as `on_exit` says.
fn leave(facts: &Facts) {
    let dataplane = {
        let mut live = facts.live();
        live.state = "draining";
        live.dataplane.take()
    };
    if let Some(dataplane) = dataplane {
        dataplane.stop();
    }
    tracing::info!(
        on_exit = facts.config.on_exit.name(),
        "stopped; programs stay attached"
    );
}

fn worker_sources(dataplane: &Dataplane) -> Vec<WorkerSource> {
    let workers = dataplane.workers.iter().zip(0..);
    workers
        .map(|(worker, id)| WorkerSource {
            id,
            core: worker
                .stats
                .core()
                .and_then(|core| u32::try_from(core).ok()),
            counters: Arc::clone(&worker.counters),
            examples: Arc::clone(&worker.examples),
            logs: Arc::clone(&worker.logs),
        })
        .collect()
}
