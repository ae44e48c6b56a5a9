//! The options of one line held against each other, and the rules that come of them.

use policy::{Network, PortRange};
use wire::Protocol;

use crate::error::{Fault, Parsed};
use crate::grammar::Module;
use crate::model::{Counters, Match, Rule, Target, Test};
use crate::place::{Place, Placed};
use crate::rule::{Draft, Given, Line};

/// How many rules one line may stand for.
const MAX_COMBINATIONS: usize = 4096;

impl Draft {
    /// The rules of the line; `place` is where it begins.
    pub(crate) fn finish(mut self, place: Place, counters: Option<Counters>) -> Parsed<Line> {
        let warning = self.settle_protocol()?;
        let target = self.target()?;
        if let Some(extra) = self
            .modules
            .iter()
            .filter(|m| m.value == Module::Comment)
            .nth(self.comments.len())
        {
            return Err(Fault::new(
                extra.place,
                "`-m comment` needs --comment and a text in double quotes",
            ));
        }
        let sources = addresses(self.sources.take(), Test::Source);
        let destinations = addresses(self.destinations.take(), Test::Destination);
        if sources.len().saturating_mul(destinations.len()) > MAX_COMBINATIONS {
            let message = format!(
                "the lists of addresses make more than {MAX_COMBINATIONS} rules; use networks"
            );
            return Err(Fault::new(place, message));
        }
        let rest = self.other_matches();
        let rule = |source: &Option<Placed<Match>>, destination: &Option<Placed<Match>>| {
            let matches = [source, destination]
                .into_iter()
                .flatten()
                .chain(&rest)
                .cloned()
                .collect();
            Placed::new(
                Rule {
                    counters,
                    matches,
                    target: target.clone(),
                },
                place,
            )
        };
        let rules = sources
            .iter()
            .flat_map(|s| destinations.iter().map(move |d| (s, d)));
        Ok(Line {
            rules: rules.map(|(s, d)| rule(s, d)).collect(),
            warning,
        })
    }

    /// Makes the protocol, the modules and the ports agree.
    fn settle_protocol(&mut self) -> Parsed<Option<Fault>> {
        let ports = self
            .source_ports
            .as_ref()
            .or(self.destination_ports.as_ref())
            .map(|given| given.place);
        let mut module: Option<(Protocol, Place)> = None;
        for named in &self.modules {
            let protocol = match named.value {
                Module::Tcp => Protocol::TCP,
                Module::Udp => Protocol::UDP,
                Module::Comment => continue,
            };
            if module.is_some_and(|(earlier, _)| earlier != protocol) {
                return Err(Fault::new(
                    named.place,
                    "a rule cannot match both tcp and udp; write one rule for each",
                ));
            }
            module = Some((protocol, named.place));
        }
        let Some(needs) = module.map(|(_, place)| place).or(ports) else {
            return Ok(None);
        };
        match &self.protocol {
            None => {
                let protocol = module.map_or(Protocol::TCP, |(protocol, _)| protocol);
                self.protocol = Some(Given {
                    value: Some(protocol),
                    negated: false,
                    place: needs,
                });
                let message = format!("no protocol is given; taken as -p {protocol}; write that");
                Ok(Some(Fault::new(needs, message)))
            }
            Some(Given {
                value: Some(protocol),
                negated: false,
                ..
            }) => match module {
                Some((named, place)) if named != *protocol => {
                    let message =
                        format!("-m {named} does not agree with -p {protocol}; make them the same");
                    Err(Fault::new(place, message))
                }
                _ if has_ports(*protocol) => Ok(None),
                _ => Err(Fault::new(
                    needs,
                    format!("protocol {protocol} has no ports here; use -p tcp or -p udp"),
                )),
            },
            Some(_) => Err(Fault::new(
                needs,
                "ports need one protocol; use -p tcp or -p udp, not negated",
            )),
        }
    }

    fn target(&mut self) -> Parsed<Option<Placed<Target>>> {
        let jump = self.jump.take();
        let tproxy = jump.as_ref().is_some_and(|given| given.value == "TPROXY");
        let on_port = self.on_port.take();
        let on_ip = self.on_ip.take();
        let extra = on_port
            .as_ref()
            .map(|g| ("--on-port", g.place))
            .or(on_ip.as_ref().map(|g| ("--on-ip", g.place)));
        if let (Some((name, place)), false) = (extra, tproxy) {
            return Err(Fault::new(
                place,
                format!("{name} belongs to -j TPROXY; add that, or remove {name}"),
            ));
        }
        let Some(Given {
            value: name, place, ..
        }) = jump
        else {
            return Ok(None);
        };
        let target = match name.as_str() {
            "ACCEPT" => Target::Accept,
            "DROP" => Target::Drop,
            "RETURN" => Target::Return,
            "TPROXY" => {
                let one = self
                    .protocol
                    .as_ref()
                    .filter(|given| !given.negated)
                    .and_then(|given| given.value);
                if !one.is_some_and(has_ports) {
                    return Err(Fault::new(
                        place,
                        "TPROXY needs -p tcp or -p udp in the same rule",
                    ));
                }
                Target::Tproxy {
                    on_port: on_port.and_then(|g| g.value),
                    on_ip: on_ip.and_then(|g| g.value),
                }
            }
            _ => Target::Jump(name),
        };
        Ok(Some(Placed::new(target, place)))
    }

    /// The matches that all rules of the line have in common, in the order of printing.
    fn other_matches(self) -> Vec<Placed<Match>> {
        let mut matches = Vec::new();
        let mut push =
            |negated, place, test| matches.push(Placed::new(Match { negated, test }, place));
        if let Some(given) = self.in_interface {
            push(given.negated, given.place, Test::InInterface(given.value));
        }
        if let Some(Given {
            value: Some(protocol),
            negated,
            place,
        }) = self.protocol
        {
            push(negated, place, Test::Protocol(protocol));
        }
        let all = |given: &Given<PortRange>| !given.negated && given.value == policy::WIDEST;
        if let Some(given) = self.source_ports.filter(|given| !all(given)) {
            push(given.negated, given.place, Test::SourcePorts(given.value));
        }
        if let Some(given) = self.destination_ports.filter(|given| !all(given)) {
            push(
                given.negated,
                given.place,
                Test::DestinationPorts(given.value),
            );
        }
        for comment in self.comments {
            push(false, comment.place, Test::Comment(comment.value));
        }
        matches
    }
}

const fn has_ports(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::TCP | Protocol::UDP)
}

/// One match for each network; none for all addresses, which need no test.
fn addresses(
    given: Option<Given<Vec<Placed<Network>>>>,
    test: fn(Network) -> Test,
) -> Vec<Option<Placed<Match>>> {
    let Some(Given { value, negated, .. }) = given else {
        return vec![None];
    };
    let one = |network: Placed<Network>| {
        let everything = network.value.prefix_bits() == Some(0) && !negated;
        (!everything).then(|| {
            Placed::new(
                Match {
                    negated,
                    test: test(network.value),
                },
                network.place,
            )
        })
    };
    value.into_iter().map(one).collect()
}
