//! The daemon's life: check, start, serve, leave.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use host::{Change, Changes, Netlink, RuntimeDir, Watch};
use rules::Ruleset;
use server::{Server, Sources, WorkerSource};
use tokio::signal::unix::{SignalKind, signal};

use crate::bringup::{self, Dataplane, Plan};
use crate::config::Config;
use crate::machine::{Facts, Live};
use crate::{detach, surroundings};

/// How often the daemon looks whether its workers are alive.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Configuration and ruleset, both valid.
fn load(path: &Path) -> Result<(Config, Ruleset)> {
    let config = Config::load(path)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let Some(ruleset) = &config.ruleset else {
        return Ok((
            config,
            Ruleset {
                file: "".into(),
                tables: Vec::new(),
            },
        ));
    };
    let name = ruleset.display().to_string();
    let text = std::fs::read_to_string(ruleset).with_context(|| format!("cannot read {name}"))?;
    let (ruleset, warnings) = Ruleset::parse(&name, &text)?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok((config, ruleset))
}

/// Validates and says so.
pub fn check(path: &Path) -> Result<()> {
    let (config, ruleset) = load(path)?;
    surroundings::check(&config, &ruleset)?;
    let rules = ruleset.rows().count();
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
    let (config, ruleset) = load(path)?;
    host::require_privileges()?;
    host::check_kernel()?;
    xsk::kernel_has_af_xdp()?;
    // One thread: netlink, the control socket and expiry; packets are the workers'.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the control thread")?;
    runtime.block_on(async {
        let dir = RuntimeDir::claim(&config.runtime_dir)?;
        let done = live(path, config, ruleset, started, &dir).await;
        let left = dir.leave();
        done?;
        Ok(left?)
    })
}

async fn live(
    path: &Path,
    config: Config,
    ruleset: Ruleset,
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
    let constants = bringup::constants(ruleset, cores.len())?;
    let mut warnings = surroundings::warnings(&config, &constants, watch.current());
    warnings.extend(left_behind(&config, &changes));
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let plan = Plan {
        config: &config,
        constants: &constants,
        snapshot: watch.current(),
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
        live: Mutex::new(Live {
            dataplane: Some(dataplane),
            snapshot: watch.current().clone(),
            state: "ready",
            changes: changes.list().to_vec(),
        }),
    });
    let machine = Arc::clone(&facts) as Arc<dyn server::Machine>;
    let server = match Server::bind(
        dir.path(),
        Sources {
            flows,
            registry,
            timeouts,
            workers,
            machine,
        },
    ) {
        Ok(server) => server,
        Err(error) => {
            leave(&facts);
            if was_clean {
                detach::undo(&netlink, &mut changes, &kept).await;
            }
            return Err(error.into());
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
    let done = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => {
                tracing::warn!("SIGHUP is ignored: restart to read the configuration anew");
            }
            ended = &mut serving => {
                break ended.context("the control thread failed").and_then(|r| r.context("the control socket failed"));
            }
            changed = watch.changed() => match changed {
                Ok(snapshot) => follow(&facts, snapshot.clone()),
                Err(error) => break Err(error.into()),
            },
            _ = look.tick() => {
                if !facts.live().dataplane.as_ref().is_some_and(Dataplane::is_alive) {
                    break Err(anyhow!("a worker has failed; see the log"));
                }
            }
        }
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
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

/// Takes new links and addresses into account.
fn follow(facts: &Facts, snapshot: host::Snapshot) {
    let is_same = {
        let live = facts.live();
        let macs = |of: &host::Snapshot| -> Vec<_> {
            let links = facts
                .config
                .ports
                .iter()
                .map(|port| of.link(&port.interface));
            links
                .map(|link| link.map(|link| (link.ifindex, link.mac)))
                .collect()
        };
        live.snapshot.addresses == snapshot.addresses && macs(&live.snapshot) == macs(&snapshot)
    };
    if is_same {
        facts.live().snapshot = snapshot;
        return;
    }
    let before = facts.view.load_full();
    let generation = before.policy.generation().wrapping_add(1);
    let surveyed = surroundings::survey(
        &facts.config,
        &facts.constants,
        &snapshot,
        &before.proxies,
        generation,
    );
    let mut live = facts.live();
    let live = &mut *live;
    let Some(dataplane) = &mut live.dataplane else {
        return;
    };
    let done = surveyed.and_then(|(view, steered)| dataplane.update(view, steered));
    dataplane.forget_lost_endpoints();
    let done = done.and_then(|()| dataplane.follow_macs(&snapshot));
    live.snapshot = snapshot;
    match done {
        Ok(()) => tracing::info!(
            generation,
            "links or addresses changed; rules compiled anew"
        ),
        Err(error) => tracing::error!(
            error = format!("{error:#}"),
            "links or addresses changed; the daemon goes on with those from before"
        ),
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
        })
        .collect()
}
