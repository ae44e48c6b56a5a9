//! The command line.

mod registrations;
mod rules;

use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};
use protocol::{
    DEFAULT_RUNTIME_DIR, FlowFilter, FlowKind, FlowState, Network, PortRange, proto_number,
};

pub(crate) use registrations::{Assign, Connect, Listen, RegistrationFilter, Registrations};
pub(crate) use rules::{Check, Commit, Gen, Log, Rules, Test, Zones};

/// Asks and tells the running xtproxyd.
#[derive(Parser)]
#[command(
    name = "xtproxy",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  xtproxy status                          is it up, and what did it change on the box
  xtproxy flows list --dport 80           who is being redirected on the way to port 80
  xtproxy flows kill --src 10.1.0.0/16    cut off every flow that these clients began
  xtproxy stats --examples                what is being dropped, and what it looks like
  xtproxy rules gen && xtproxy rules test && xtproxy rules commit
  xtproxy rules show --table filter       the rules in force, with counters
  xtproxy log --follow                    what LOG rules and drops have to say
  xtproxy registrations --watch           foreign addresses of proxies, as they come and go
  xtproxy listen --foreign 203.0.113.5:2121 --local 10.0.0.1:50021
  xtproxy --json flows list | jq '.flows[] | .orig.src'

Exit codes: 0 done, 1 refused or failed, 2 usage."
)]
pub(crate) struct Arguments {
    /// The daemon's runtime directory.
    #[arg(long, value_name = "DIR", env = "XTPROXY_RUNTIME_DIR", hide_env_values = true, default_value = DEFAULT_RUNTIME_DIR, display_order = 100, global = true)]
    pub(crate) runtime_dir: PathBuf,
    /// Print one JSON document instead of tables.
    #[arg(long, global = true, display_order = 101)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What can be asked for or done.
#[derive(Subcommand)]
pub(crate) enum Command {
    #[command(flatten)]
    Ask(Ask),
    #[command(subcommand)]
    Rules(Rules),
    Log(Log),
    Registrations(Registrations),
    Listen(Listen),
    Connect(Connect),
    Assign(Assign),
}

/// What the control socket is asked for, one request each.
#[derive(Subcommand)]
pub(crate) enum Ask {
    /// Shows what the daemon is and does, and what it changed on the box.
    Status,
    /// Shows the ports and how they are bound.
    Ports,
    /// Shows the counters of workers and ports, and what was dropped and why.
    #[command(after_help = "\
Examples:
  xtproxy stats               counters, and the reasons for which something was dropped
  xtproxy stats --all         every reason, with what it means
  xtproxy stats --examples    also the latest dropped packet of each reason")]
    Stats {
        /// List every drop reason and counter, zero or not.
        #[arg(long)]
        all: bool,
        /// Show the latest dropped frame of each reason.
        #[arg(long)]
        examples: bool,
    },
    /// Lists, counts and removes flows.
    #[command(subcommand)]
    Flows(Flows),
    Zones(Zones),
}

/// What can be done with flows.
#[derive(Subcommand)]
pub(crate) enum Flows {
    /// Lists the flows that match.
    #[command(after_help = FILTER_HELP)]
    List(Filter),
    /// Counts the flows that match.
    #[command(after_help = FILTER_HELP)]
    Count(Filter),
    /// Removes the flows that match; packets that follow belong to no flow and are dropped.
    #[command(after_help = FILTER_HELP)]
    Kill(Filter),
    /// Removes every flow.
    Flush,
}

const FILTER_HELP: &str = "\
Every option given must match; addresses and ports are those of the original direction,
as the side that began the flow sends.

Examples:
  xtproxy flows list --proto tcp --dst 192.0.2.0/24 --dport 80:443
  xtproxy flows count --state established
  xtproxy flows kill --id 4294967297";

/// Which flows.
#[derive(Args)]
pub(crate) struct Filter {
    /// The protocol: tcp, udp, icmp or a number.
    #[arg(long, value_parser = proto)]
    proto: Option<u8>,
    /// The source address or network.
    #[arg(long, value_name = "ADDRESS[/PREFIX]")]
    src: Option<Network>,
    /// The source port or range.
    #[arg(long, value_name = "PORT[:PORT]")]
    sport: Option<PortRange>,
    /// The destination address or network.
    #[arg(long, value_name = "ADDRESS[/PREFIX]")]
    dst: Option<Network>,
    /// The destination port or range.
    #[arg(long, value_name = "PORT[:PORT]")]
    dport: Option<PortRange>,
    /// The kind: redirect, local, ...
    #[arg(long)]
    kind: Option<FlowKind>,
    /// The state: established, half_closed, ...
    #[arg(long)]
    state: Option<FlowState>,
    /// The flow's id, as the list shows it.
    #[arg(long)]
    id: Option<u64>,
}

fn proto(text: &str) -> Result<u8, String> {
    proto_number(text).ok_or_else(|| "one of tcp, udp, icmp, or a number up to 255".into())
}

impl Filter {
    pub(crate) fn filter(&self) -> FlowFilter {
        let Self {
            proto,
            src,
            sport,
            dst,
            dport,
            kind,
            state,
            id,
        } = *self;
        FlowFilter {
            id,
            proto,
            src,
            sport,
            dst,
            dport,
            kind,
            state,
        }
    }
}

impl Arguments {
    /// Parses, and refuses what clap alone cannot see.
    pub(crate) fn checked() -> Self {
        let arguments = Self::parse();
        let message = match &arguments.command {
            Command::Ask(Ask::Flows(Flows::Kill(filter))) if filter.filter().is_empty() => {
                "flows kill needs at least one of --id, --proto, --src, --sport, \
                 --dst, --dport, --kind, --state; 'xtproxy flows flush' removes every flow"
                    .to_owned()
            }
            Command::Rules(Rules::Explain(explain)) => match explain.without_port() {
                Some(option) => format!("{option} needs a port, as in 192.168.1.9:40000"),
                None => return arguments,
            },
            _ => return arguments,
        };
        let kind = clap::error::ErrorKind::MissingRequiredArgument;
        Self::command().error(kind, message).exit();
    }
}
