//! The options of one line held against each other, and the rules that come of them. A line
//! with lists of addresses stands for one rule per combination, as in iptables.

use policy::Network;
use wire::Protocol;

use crate::error::{Fault, Parsed, quoted};
use crate::matches::{Module, Test};
use crate::model::{Counters, Match, Rule, TableName};
use crate::names::Named;
use crate::option::Given;
use crate::place::{Place, Placed};
use crate::rule::{Draft, Line, Scope, Way};
use crate::targets::{self, Target};
use crate::value;

/// How many rules one line may stand for.
const MAX_COMBINATIONS: usize = 4096;

/// What `-p` says, or what is understood without it.
#[derive(Clone, Copy)]
struct Proto {
    /// None for all protocols.
    value: Option<Protocol>,
    negated: bool,
    place: Place,
}

impl Draft<'_> {
    /// The rules of the line.
    pub(crate) fn finish(self, scope: Scope<'_>) -> Parsed<Line> {
        let mut warnings = Vec::new();
        let given = self.protocol()?;
        let proto = self.settle_protocol(given, scope.table, &mut warnings)?;
        let one = proto.filter(|proto| !proto.negated);
        let target = self.target(scope, one.and_then(|proto| proto.value), &mut warnings)?;
        let sources = addresses(self.general.get("-s"), Test::Source)?;
        let destinations = addresses(self.general.get("-d"), Test::Destination)?;
        if sources.len().saturating_mul(destinations.len()) > MAX_COMBINATIONS {
            let message = format!(
                "the lists of addresses make more than {MAX_COMBINATIONS} rules; use networks or a set"
            );
            return Err(Fault::new(scope.place, message));
        }
        let rest = self.other_matches(scope, proto)?;
        let counters = self.counters()?.or(scope.counters);
        let mut rules = Vec::new();
        for source in &sources {
            for destination in &destinations {
                let addresses = [source, destination].into_iter().flatten();
                let rule = Rule {
                    counters,
                    matches: addresses.chain(&rest).cloned().collect(),
                    target: target.clone(),
                };
                rules.push(Placed::new(rule, scope.place));
            }
        }
        Ok(Line { rules, warnings })
    }

    fn protocol(&self) -> Parsed<Option<Proto>> {
        let Some(given) = self.general.get("-p") else {
            return Ok(None);
        };
        let value = value::protocol(given.value())?;
        if given.negated && value.is_none() {
            let message = "a rule for no protocol at all never matches; remove it";
            return Err(Fault::new(given.value().place, message));
        }
        let (negated, place) = (given.negated, given.place());
        Ok(Some(Proto {
            value,
            negated,
            place,
        }))
    }

    /// Makes the protocol, the modules and the ports agree.
    fn settle_protocol(
        &self,
        given: Option<Proto>,
        table: TableName,
        warnings: &mut Vec<Fault>,
    ) -> Parsed<Option<Proto>> {
        let needs = self.needs()?;
        let Some(Need {
            place,
            protocol,
            what,
        }) = needs
        else {
            return Ok(given);
        };
        let needed = protocol.unwrap_or(Protocol::TCP);
        let Some(proto) = given else {
            if table != TableName::Tproxy {
                let message = match protocol {
                    Some(only) => format!("{} needs -p {only} in the same rule", quoted(&what)),
                    None => format!("{} needs -p tcp or -p udp in the same rule", quoted(&what)),
                };
                return Err(Fault::new(place, message));
            }
            let message = format!("no protocol is given; taken as -p {needed}; write that");
            warnings.push(Fault::new(place, message));
            let (value, negated) = (Some(needed), false);
            return Ok(Some(Proto {
                value,
                negated,
                place,
            }));
        };
        let message = match (proto.value, protocol) {
            (None, _) | (Some(_), _) if proto.negated || proto.value.is_none() => {
                let which = protocol.map_or_else(|| "tcp or -p udp".to_owned(), |p| p.to_string());
                format!(
                    "{} needs one protocol; use -p {which}, not negated",
                    quoted(&what)
                )
            }
            (Some(is), Some(only)) if is != only && what.starts_with("-m") => {
                format!(
                    "-m {only} does not agree with -p {}; make them the same",
                    Named(is)
                )
            }
            (Some(is), Some(only)) if is != only => {
                format!(
                    "{} is for protocol {only}, not {}; use -p {only}",
                    quoted(&what),
                    Named(is)
                )
            }
            (Some(is), None) if !has_ports(is) => {
                format!(
                    "protocol {} has no ports here; use -p tcp or -p udp",
                    Named(is)
                )
            }
            _ => return Ok(given),
        };
        Err(Fault::new(place, message))
    }

    /// What the modules need of the protocol: exactly one, or one that has ports.
    fn needs(&self) -> Parsed<Option<Need>> {
        let mut need: Option<Need> = None;
        for mention in &self.mentions {
            let (protocol, what) = match mention.module {
                Module::Implied => {
                    let of_tcp = mention.options.any_of(&["--tcp-flags", "--syn"]);
                    let of_icmp = mention.options.any_of(&["--icmp-type"]);
                    let any = mention.options.any_of(&["--sport", "--dport"]);
                    let first = of_tcp.or(of_icmp).or(any);
                    let protocol = match (of_tcp, of_icmp) {
                        (Some(_), _) => Some(Protocol::TCP),
                        (None, Some(_)) => Some(Protocol::ICMP),
                        (None, None) => None,
                    };
                    (
                        protocol,
                        first.map_or_else(String::new, |given| given.name.text.clone()),
                    )
                }
                Module::Multiport => (None, "-m multiport".to_owned()),
                module => match module.protocol() {
                    Some(protocol) => (Some(protocol), format!("-m {}", module.name())),
                    None => continue,
                },
            };
            let this = Need {
                place: mention.place,
                protocol,
                what,
            };
            need = Some(match need {
                None => this,
                Some(earlier) => earlier.and(this)?,
            });
        }
        Ok(need)
    }

    fn target(
        &self,
        scope: Scope<'_>,
        protocol: Option<Protocol>,
        warnings: &mut Vec<Fault>,
    ) -> Parsed<Option<Placed<Target>>> {
        let Some((place, way)) = &self.way else {
            return Ok(None);
        };
        let target = match way {
            Way::Jump(chain) => Target::Jump((*chain).to_owned()),
            Way::Goto(chain) => Target::Goto((*chain).to_owned()),
            Way::Target(kind, options) => {
                kind.check_table(scope.table, *place)?;
                let target = targets::target(*kind, *place, options, protocol)?;
                if let Some(mark) = options.get("--tproxy-mark") {
                    let message = "--tproxy-mark has no effect: redirected packets need no routing by mark; remove it";
                    warnings.push(Fault::new(mark.place(), message));
                }
                return Ok(Some(target));
            }
        };
        Ok(Some(Placed::new(target, *place)))
    }

    fn counters(&self) -> Parsed<Option<Counters>> {
        let Some(given) = self.general.get("-c") else {
            return Ok(None);
        };
        let whole = |word: &crate::lexer::Word| {
            value::number(&word.text).ok_or_else(|| {
                let message = format!("{} is not a number of packets or bytes", quoted(&word.text));
                Fault::new(word.place, message)
            })
        };
        let (packets, bytes) = (whole(given.value())?, whole(given.second())?);
        Ok(Some(Counters { packets, bytes }))
    }

    /// The matches that all rules of the line have in common, in the order of printing.
    fn other_matches(&self, scope: Scope<'_>, proto: Option<Proto>) -> Parsed<Vec<Placed<Match>>> {
        let mut matches = Vec::new();
        let mut push =
            |negated, place, test| matches.push(Placed::new(Match { negated, test }, place));
        if let Some(given) = self.general.get("-i") {
            check_interface(scope, &given, ["OUTPUT", "POSTROUTING"], "come in by")?;
            let pattern = value::interface(given.value())?;
            push(given.negated, given.place(), Test::InInterface(pattern));
        }
        if let Some(given) = self.general.get("-o") {
            check_interface(scope, &given, ["PREROUTING", "INPUT"], "leave by")?;
            let pattern = value::interface(given.value())?;
            push(given.negated, given.place(), Test::OutInterface(pattern));
        }
        if let Some(Proto {
            value: Some(protocol),
            negated,
            place,
        }) = proto
        {
            push(negated, place, Test::Protocol(protocol));
        }
        if let Some(given) = self.general.get("-f") {
            push(given.negated, given.place(), Test::Fragment);
        }
        for mention in &self.mentions {
            matches.extend(mention.tests()?);
        }
        Ok(matches)
    }
}

/// What a line needs of its protocol.
struct Need {
    place: Place,
    /// Exactly this one; none for one that has ports.
    protocol: Option<Protocol>,
    /// What needs it.
    what: String,
}

impl Need {
    fn and(self, other: Self) -> Parsed<Self> {
        match (self.protocol, other.protocol) {
            (Some(a), Some(b)) if a != b => Err(Fault::new(
                other.place,
                format!("a rule cannot match both {a} and {b}; write one rule for each"),
            )),
            (Some(protocol), None) if !has_ports(protocol) => Err(Fault::new(
                other.place,
                format!(
                    "protocol {} has no ports here; use -p tcp or -p udp",
                    Named(protocol)
                ),
            )),
            (None, Some(_)) => Ok(other),
            _ => Ok(self),
        }
    }
}

/// Refuses `-i` and `-o` where no packet has one.
fn check_interface(
    scope: Scope<'_>,
    given: &Given<'_>,
    without: [&str; 2],
    how: &str,
) -> Parsed<()> {
    if !(scope.is_built_in && without.contains(&scope.chain)) {
        return Ok(());
    }
    let message = format!(
        "{} cannot be used in {}: packets there have no interface that they {how}; remove it",
        quoted(&given.name.text),
        scope.chain
    );
    Err(Fault::new(given.place(), message))
}

const fn has_ports(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::TCP | Protocol::UDP)
}

/// One match for each network; none for all addresses, which need no test.
fn addresses(
    given: Option<Given<'_>>,
    test: fn(Network) -> Test,
) -> Parsed<Vec<Option<Placed<Match>>>> {
    let Some(given) = given else {
        return Ok(vec![None]);
    };
    let negated = given.negated;
    let list = value::networks(given.value())?;
    if negated && list.len() > 1 {
        let message = "`!` takes one address or network, not a list; write a chain with one RETURN rule for each";
        return Err(Fault::new(given.value().place, message));
    }
    let one = |network: Placed<Network>| {
        let everything = network.value.prefix_bits() == Some(0) && !negated;
        let test = test(network.value);
        (!everything).then(|| Placed::new(Match { negated, test }, network.place))
    };
    Ok(list.into_iter().map(one).collect())
}
