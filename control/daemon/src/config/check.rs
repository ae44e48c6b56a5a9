//! What the types cannot say: names, ranges, references.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;

use super::error::Fault;
use super::grants::grant;
use super::services::services;
use super::text::{ConfigFile, LimitsTable, PortTable, TimeoutsTable};
use super::zones::{InZone, management, zone_of, zones};
use super::{Config, Limits, Port, RUNTIME_DIR, Timeouts, Zone};

const PORTS_MAX: usize = 32;
const NAME_MAX: usize = 15;
const FLOWS: RangeInclusive<i64> = 1024..=16_777_216;
const REGISTRATIONS: RangeInclusive<i64> = 16..=1_048_576;
const FRAMES: RangeInclusive<i64> = 1024..=262_144;
const HOST_PORT: &str = "xtp0";
/// What the dataplane's side of the host port has behind its name.
const HOST_PORT_SUFFIX: &str = "-dp";

pub fn check(file: ConfigFile, path: &Path, cores: &[usize]) -> Result<Config, Fault> {
    let services = services(file.service)?;
    let (zones, named) = zones(file.zone, &services)?;
    let mut ports = ports(file.port, &zones)?;
    place(&mut ports, named)?;
    let workers = file.workers.map(|list| workers(list, cores)).transpose()?;
    let mut config = Config {
        runtime_dir: runtime_dir(file.runtime_dir)?,
        ruleset: file.ruleset.map(|name| ruleset(&name, path)).transpose()?,
        workers,
        busy: file.busy,
        on_exit: file.on_exit,
        host_port: host_port(file.host_port, &ports)?,
        management: file
            .management
            .into_iter()
            .map(|entry| management(entry, &zones))
            .collect::<Result<_, _>>()?,
        ports,
        zones,
        services,
        established: file.rules.established,
        grants: file
            .grant
            .into_iter()
            .map(grant)
            .collect::<Result<_, _>>()?,
        limits: limits(&file.limits)?,
        timeouts: timeouts(&file.timeouts),
        warnings: Vec::new(),
    };
    config.warnings = warnings(&config, cores);
    Ok(config)
}

fn runtime_dir(given: Option<Spanned<String>>) -> Result<PathBuf, Fault> {
    let Some(given) = given else {
        return Ok(PathBuf::from(RUNTIME_DIR));
    };
    let path = PathBuf::from(given.get_ref());
    if !path.is_absolute() {
        return Err(Fault::new(
            given.span(),
            format!("runtime_dir must be an absolute path, such as \"{RUNTIME_DIR}\""),
        ));
    }
    Ok(path)
}

fn ruleset(given: &Spanned<String>, config: &Path) -> Result<PathBuf, Fault> {
    let refuse = |reason: String| Fault::new(given.span(), format!("ruleset {reason}"));
    let folder = config.parent().unwrap_or(Path::new(""));
    let path = std::path::absolute(folder.join(given.get_ref()))
        .map_err(|error| refuse(format!("{}: {error}", given.get_ref())))?;
    match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(path),
        Ok(_) => Err(refuse(format!("{} is not a file", path.display()))),
        Err(error) => Err(refuse(format!("{}: {error}", path.display()))),
    }
}

fn workers(list: Spanned<Vec<Spanned<i64>>>, cores: &[usize]) -> Result<Vec<usize>, Fault> {
    let span = list.span();
    let mut chosen = Vec::new();
    for core in list.into_inner() {
        let known = usize::try_from(*core.get_ref())
            .ok()
            .filter(|core| cores.contains(core));
        let Some(known) = known else {
            return Err(Fault::new(
                core.span(),
                format!(
                    "workers: core {} does not exist or may not be used here; there are cores {}",
                    core.get_ref(),
                    join(cores)
                ),
            ));
        };
        if chosen.contains(&known) {
            return Err(Fault::new(
                core.span(),
                format!("workers: core {known} is listed twice; give each core once"),
            ));
        }
        chosen.push(known);
    }
    if chosen.is_empty() {
        return Err(Fault::new(
            span,
            "workers is empty; list cores, or leave the key out for one worker per core",
        ));
    }
    Ok(chosen)
}

fn ports(
    tables: Vec<Spanned<PortTable>>,
    zones: &BTreeMap<String, Zone>,
) -> Result<Vec<Port>, Fault> {
    if tables.is_empty() {
        return Err(Fault::nowhere(
            "there is no port; add a [[port]] with interface = \"NAME\" for each NIC",
        ));
    }
    let mut ports: Vec<Port> = Vec::new();
    for table in tables {
        if ports.len() == PORTS_MAX {
            return Err(Fault::new(
                table.span(),
                format!("there are more than {PORTS_MAX} ports"),
            ));
        }
        let table = table.into_inner();
        let interface = table.interface.get_ref();
        interface_name(interface, "interface")
            .map_err(|message| Fault::new(table.interface.span(), message))?;
        if ports.iter().any(|port| port.interface == *interface) {
            return Err(Fault::new(
                table.interface.span(),
                format!("port {interface} is given twice; remove one of the two [[port]]"),
            ));
        }
        if let Some(zone) = &table.zone {
            zone_of(zone, zones)?;
        }
        ports.push(Port {
            interface: table.interface.into_inner(),
            zone: table.zone.map(Spanned::into_inner),
            mode: table.mode,
        });
    }
    Ok(ports)
}

/// Gives ports the zones that name them.
fn place(ports: &mut [Port], named: Vec<InZone>) -> Result<(), Fault> {
    for InZone { interface, zone } in named {
        let name = interface.get_ref();
        let known: Vec<String> = ports.iter().map(|port| port.interface.clone()).collect();
        let Some(port) = ports.iter_mut().find(|port| port.interface == *name) else {
            let hint = match host::nearest(name, known.iter().map(String::as_str)) {
                Some(near) => format!("did you mean {near}?"),
                None => "add a [[port]] for it".to_owned(),
            };
            return Err(Fault::new(
                interface.span(),
                format!("interface {name:?} is no port; {hint}"),
            ));
        };
        match port.zone.replace(zone.clone()) {
            Some(other) if other != zone => {
                return Err(Fault::new(
                    interface.span(),
                    format!(
                        "interface {name} is in zone {other} and in zone {zone}; an interface has one zone"
                    ),
                ));
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

fn host_port(given: Option<Spanned<String>>, ports: &[Port]) -> Result<String, Fault> {
    let (name, span) = match given {
        Some(given) => (given.get_ref().clone(), Some(given.span())),
        None => (HOST_PORT.to_owned(), None),
    };
    let refuse = |message: String| match span.clone() {
        Some(span) => Fault::new(span, message),
        None => Fault::nowhere(message),
    };
    interface_name(&name, "host_port").map_err(refuse)?;
    let max = NAME_MAX - HOST_PORT_SUFFIX.len();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.len() > max || name.starts_with('.') || !name.chars().all(plain) {
        return Err(refuse(format!(
            "host_port: {name:?} cannot be used; give 1 to {max} letters, digits, '-', '_' or '.'"
        )));
    }
    let own = [name.clone(), format!("{name}{HOST_PORT_SUFFIX}")];
    match ports.iter().find(|port| own.contains(&port.interface)) {
        Some(port) => Err(refuse(format!(
            "host_port {name} makes interfaces {} and {}, and {} is a [[port]]; choose another \
             host_port",
            own[0], own[1], port.interface
        ))),
        None => Ok(name),
    }
}

/// What the kernel takes as an interface's name.
fn interface_name(name: &str, key: &str) -> Result<(), String> {
    let reason = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > NAME_MAX {
        format!("is longer than {NAME_MAX} bytes")
    } else if name == "." || name == ".." {
        "is no name".to_owned()
    } else if let Some(bad) = name
        .chars()
        .find(|c| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control())
    {
        format!("has {bad:?} in it")
    } else {
        return Ok(());
    };
    Err(format!(
        "{key}: {name:?} {reason}; give an interface's name as `ip link` shows it"
    ))
}

fn limits(given: &LimitsTable) -> Result<Limits, Fault> {
    let mut limits = Limits::default();
    if let Some(flows) = &given.flows {
        limits.flows = ranged(flows, "flows", &FLOWS)?;
    }
    if let Some(registrations) = &given.registrations {
        limits.registrations = ranged(registrations, "registrations", &REGISTRATIONS)?;
    }
    if let Some(frames) = &given.frames_per_worker {
        limits.frames_per_worker = ranged(frames, "frames_per_worker", &FRAMES)?;
        if !limits.frames_per_worker.is_power_of_two() {
            return Err(Fault::new(
                frames.span(),
                format!(
                    "frames_per_worker = {} is not a power of two; the next one is {}",
                    limits.frames_per_worker,
                    limits.frames_per_worker.next_power_of_two()
                ),
            ));
        }
    }
    Ok(limits)
}

fn ranged<T: TryFrom<i64>>(
    given: &Spanned<i64>,
    key: &str,
    range: &RangeInclusive<i64>,
) -> Result<T, Fault> {
    Some(*given.get_ref())
        .filter(|value| range.contains(value))
        .and_then(|value| T::try_from(value).ok())
        .ok_or_else(|| out_of_range(given, key, range))
}

pub fn out_of_range(given: &Spanned<i64>, key: &str, range: &RangeInclusive<i64>) -> Fault {
    let (value, start, end) = (given.get_ref(), range.start(), range.end());
    Fault::new(
        given.span(),
        format!("{key} = {value} is not between {start} and {end}"),
    )
}

fn timeouts(given: &TimeoutsTable) -> Timeouts {
    let usual = Timeouts::default();
    Timeouts {
        tcp_established: given.tcp_established.map_or(usual.tcp_established, |t| t.0),
        tcp_handshake: given.tcp_handshake.map_or(usual.tcp_handshake, |t| t.0),
        tcp_transitory: given.tcp_transitory.map_or(usual.tcp_transitory, |t| t.0),
        tcp_closed: given.tcp_closed.map_or(usual.tcp_closed, |t| t.0),
        udp: given.udp.map_or(usual.udp, |t| t.0),
    }
}

fn warnings(config: &Config, cores: &[usize]) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.ruleset.is_none() {
        warnings.push("there is no ruleset: all transit is dropped".to_owned());
    }
    let everywhere = config
        .workers
        .as_ref()
        .is_none_or(|workers| workers.len() == cores.len());
    if config.busy && everywhere {
        warnings.push(
            "busy = true on every core leaves none to the kernel and the proxies; list fewer \
             workers"
                .to_owned(),
        );
    }
    let timeouts = &config.timeouts;
    for (key, given, least, whose) in [
        (
            "tcp_established",
            timeouts.tcp_established,
            7440,
            "RFC 5382",
        ),
        ("tcp_transitory", timeouts.tcp_transitory, 240, "RFC 5382"),
        ("udp", timeouts.udp, 120, "RFC 4787"),
    ] {
        if given < Duration::from_secs(least) {
            warnings.push(format!(
                "{key} = {}s is shorter than the {least}s of {whose}: idle connections may break",
                given.as_secs()
            ));
        }
    }
    warnings
}

fn join(cores: &[usize]) -> String {
    let cores: Vec<String> = cores.iter().map(usize::to_string).collect();
    cores.join(", ")
}
