//! Targets to text, as iptables-save writes them.

use std::fmt;
use std::net::Ipv4Addr;

use policy::{NoListener, RejectWith};

use super::{Log, Masquerade, NatRange, Target, log, reject, tproxy};
use crate::matches::print::Masked;
use crate::print::{Cidr, Quoted};

/// The name of a REJECT's answer.
pub(crate) fn answer(with: RejectWith) -> &'static str {
    let named = reject::NAMES.iter().find(|(_, known)| *known == with);
    named.map_or("", |(name, _)| name)
}

/// The word of `--on-no-listener`.
pub(crate) fn otherwise(what: NoListener) -> &'static str {
    let named = tproxy::OTHERWISE.iter().find(|(_, known)| *known == what);
    named.map_or("", |(name, _)| name)
}

impl Target {
    /// Its name, as a list shows it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Accept => "ACCEPT",
            Self::Drop => "DROP",
            Self::Return => "RETURN",
            Self::Jump(chain) | Self::Goto(chain) => chain,
            Self::Reject(_) => "REJECT",
            Self::Log(_) => "LOG",
            Self::Mark { .. } => "MARK",
            Self::NoTrack => "CT",
            Self::Tproxy { .. } => "TPROXY",
            Self::Snat(_) => "SNAT",
            Self::Dnat(_) => "DNAT",
            Self::Masquerade(_) => "MASQUERADE",
            Self::Redirect(_) => "REDIRECT",
            Self::Netmap(_) => "NETMAP",
        }
    }
}

impl fmt::Display for Target {
    /// From `-j` on.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let option = if matches!(self, Self::Goto(_)) {
            "-g"
        } else {
            "-j"
        };
        write!(f, "{option} {}", Quoted(self.name()))?;
        match self {
            Self::Accept | Self::Drop | Self::Return | Self::Jump(_) | Self::Goto(_) => Ok(()),
            Self::Reject(with) => write!(f, " --reject-with {}", answer(*with)),
            Self::Log(written) => written.fmt(f),
            Self::Mark { value, mask } => write!(f, " --set-xmark {value:#x}/{mask:#x}"),
            Self::NoTrack => f.write_str(" --notrack"),
            Self::Tproxy {
                on_port,
                on_ip,
                otherwise: what,
                mark,
            } => {
                on_port.map_or(Ok(()), |port| write!(f, " --on-port {port}"))?;
                on_ip.map_or(Ok(()), |addr| write!(f, " --on-ip {addr}"))?;
                mark.map_or(Ok(()), |(value, mask)| {
                    write!(f, " --tproxy-mark {}", Masked(value, mask))
                })?;
                if *what == NoListener::Reject {
                    return Ok(());
                }
                write!(f, " --on-no-listener {}", otherwise(*what))
            }
            Self::Snat(range) => write!(f, " --to-source {range}"),
            Self::Dnat(range) => write!(f, " --to-destination {range}"),
            Self::Masquerade(how) | Self::Redirect(how) => how.fmt(f),
            Self::Netmap(network) => write!(f, " --to {}", Cidr(*network)),
        }
    }
}

impl fmt::Display for Log {
    /// The options, each with a blank before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.prefix.is_empty() {
            write!(f, " --log-prefix {}", Quoted(&self.prefix))?;
        }
        if self.level != log::LEVEL {
            write!(f, " --log-level {}", self.level)?;
        }
        let given = (0..).zip(log::FLAGS);
        let mut given = given.filter(|(bit, _)| self.flags & 1u8 << bit != 0);
        given.try_for_each(|(_, name)| write!(f, " {name}"))
    }
}

impl fmt::Display for NatRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_text())?;
        let flags = [
            ("--random", self.random),
            ("--random-fully", self.fully),
            ("--persistent", self.persistent),
        ];
        let mut given = flags.iter().filter(|(_, given)| *given);
        given.try_for_each(|(name, _)| write!(f, " {name}"))
    }
}

impl NatRange {
    /// Addresses and ports.
    pub(crate) fn to_text(self) -> String {
        let mut text = self.addrs.map_or_else(String::new, span::<Ipv4Addr>);
        match (self.ports, self.base) {
            // A base is read behind two ports only, even if they are the same.
            (Some((first, last)), Some(base)) => text += &format!(":{first}-{last}/{base}"),
            (Some(ports), None) => text += &format!(":{}", span(ports)),
            (None, _) => {}
        }
        text
    }
}

/// One value, or two with a dash.
pub(crate) fn span<T: fmt::Display + PartialEq>((first, last): (T, T)) -> String {
    if first == last {
        first.to_string()
    } else {
        format!("{first}-{last}")
    }
}

impl fmt::Display for Masquerade {
    /// The options, each with a blank before it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(ports) = self.ports {
            write!(f, " --to-ports {}", span(ports))?;
        }
        let flags = [("--random", self.random), ("--random-fully", self.fully)];
        let mut given = flags.iter().filter(|(_, given)| *given);
        given.try_for_each(|(name, _)| write!(f, " {name}"))
    }
}
