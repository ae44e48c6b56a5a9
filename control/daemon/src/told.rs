//! Rules, zones and log records in the control socket's words.

use pipeline::{LogKind, LogRecord, PortId};
use policy::{RuleId, ServiceId, ZoneId, Zones};
use protocol::{RuleChain, RuleRow, RuleTable, Rules, Service, Zone, ZoneMatrix, ZoneReach};
use server::LogWords;

use crate::machine::Facts;

/// The rules in force, with what they have matched.
pub fn rules(facts: &Facts) -> Rules {
    let (view, book) = facts.view_and_book();
    let connections = facts.listeners.hits();
    // The box's own connections have no bytes yet when they are counted.
    let hits = |rule: RuleId| {
        let (packets, bytes) = view.rule_hits.read(rule);
        (
            packets + connections.get(&rule.0).copied().unwrap_or(0),
            bytes,
        )
    };
    let mut tables: Vec<RuleTable> = Vec::new();
    for chain in book.ruleset.chains() {
        let (packets, bytes) = chain.policy_id.map_or((0, 0), &hits);
        let told = RuleChain {
            name: chain.chain.clone(),
            policy: chain.policy.map(|verdict| verdict_name(verdict).to_owned()),
            packets,
            bytes,
            references: chain.references as u64,
            rules: Vec::new(),
        };
        let name = chain.table;
        match tables.last_mut().filter(|table| table.name == name) {
            Some(table) => table.chains.push(told),
            None => tables.push(RuleTable {
                name: name.to_owned(),
                chains: vec![told],
            }),
        }
    }
    let mut chains = tables.iter_mut().flat_map(|table| {
        let name = table.name.clone();
        table
            .chains
            .iter_mut()
            .map(move |chain| (name.clone(), chain))
    });
    // Rows come chain by chain in the same order.
    let mut open = chains.next();
    for row in book.ruleset.rows() {
        let is_here = |(table, chain): &(String, &mut RuleChain)| {
            *table == row.table && chain.name == row.chain
        };
        while open.as_ref().is_some_and(|here| !is_here(here)) {
            open = chains.next();
        }
        let Some((_, chain)) = &mut open else { break };
        let (packets, bytes) = hits(row.id);
        chain.rules.push(RuleRow {
            line: row.line,
            packets,
            bytes,
            text: row.text,
            target: row.target,
            prot: row.prot,
            opt: row.opt,
            in_interface: row.input,
            out_interface: row.output,
            source: row.source,
            destination: row.destination,
            extra: row.extra,
        });
    }
    drop(chains);
    Rules {
        generation: view.policy.generation(),
        tables,
    }
}

/// A verdict's name in a ruleset.
pub const fn verdict_name(verdict: policy::Verdict) -> &'static str {
    match verdict {
        policy::Verdict::Accept => "ACCEPT",
        policy::Verdict::Drop => "DROP",
    }
}

/// The names behind a log record; none if its rules are forgotten.
pub fn log_words(facts: &Facts, record: &LogRecord) -> Option<LogWords> {
    let interface = |port: Option<PortId>| {
        let port = port.and_then(|port| facts.config.ports.get(usize::from(port.0)));
        port.map(|port| port.interface.clone()).unwrap_or_default()
    };
    let words = LogWords {
        in_interface: interface(record.in_port),
        out_interface: interface(record.out_port),
        ..LogWords::default()
    };
    match record.what {
        LogKind::Rule(rule) => {
            let live = facts.live();
            let book = live.ruling.book_of(record.generation)?;
            let (table, chain, placed) = book.ruleset.rule(rule)?;
            Some(LogWords {
                prefix: book.ruleset.log_prefix(rule).unwrap_or_default().to_owned(),
                table: Some(table.as_str().to_owned()),
                chain: Some(chain.name.clone()),
                line: Some(placed.place.line),
                ..words
            })
        }
        LogKind::Zone(denial) => {
            let zones = &facts.constants.zones;
            let name = |zone: ZoneId| zones.name(zone).to_owned();
            Some(LogWords {
                from_zone: denial.from.map(name),
                to_zone: denial.to.map(name),
                service: denial
                    .service
                    .map(|service| zones.service_name(service).to_owned()),
                ..words
            })
        }
    }
}

/// Zones, services, and who may reach whom.
pub fn zones(facts: &Facts) -> ZoneMatrix {
    let zones = &facts.constants.zones;
    let config = &facts.config;
    let told = config.zones.iter().map(|(name, zone)| Zone {
        name: name.clone(),
        parent: zone.parent.clone(),
        networks: zone.networks.iter().map(ToString::to_string).collect(),
        interfaces: config
            .ports
            .iter()
            .filter(|port| port.zone.as_ref() == Some(name))
            .map(|port| port.interface.clone())
            .collect(),
        inbound: inherited(config, name, |zone| zone.inbound.as_ref()),
        outbound: inherited(config, name, |zone| zone.outbound.as_ref()),
    });
    let services = config.services.iter().map(|(name, service)| Service {
        name: name.clone(),
        proxy: service.proxy.to_string(),
    });
    let ids: Vec<ZoneId> = zones.names().map(|(id, _)| id).collect();
    let known: Vec<ServiceId> = zones.services().map(|(id, _)| id).collect();
    let pairs = ids
        .iter()
        .flat_map(|from| ids.iter().map(move |to| (*from, *to)));
    let reach = pairs.map(|(from, to)| ZoneReach {
        from: Some(zones.name(from).to_owned()),
        to: Some(zones.name(to).to_owned()),
        services: between(zones, from, to, &known),
    });
    ZoneMatrix {
        zones: told.collect(),
        services: services.collect(),
        reach: reach.collect(),
    }
}

/// A zone's list, or the nearest parent's that has one.
fn inherited<'a>(
    config: &'a crate::config::Config,
    name: &str,
    list: impl Fn(&'a crate::config::Zone) -> Option<&'a Vec<String>>,
) -> Option<Vec<String>> {
    let mut at = config.zones.get(name);
    // A zone is no part of itself: that is checked.
    while let Some(zone) = at {
        if let Some(found) = list(zone) {
            return Some(found.clone());
        }
        at = zone
            .parent
            .as_ref()
            .and_then(|parent| config.zones.get(parent));
    }
    None
}

fn between(zones: &Zones, from: ZoneId, to: ZoneId, services: &[ServiceId]) -> Vec<String> {
    // What a server's zone is its address tells: without networks it is nobody's.
    let to = zones.has_networks(to).then_some(to);
    if zones.allowed(Some(from), to, None) {
        return vec!["*".to_owned()];
    }
    let allowed = services
        .iter()
        .filter(|service| zones.allowed(Some(from), to, Some(**service)));
    allowed
        .map(|service| zones.service_name(*service).to_owned())
        .collect()
}
