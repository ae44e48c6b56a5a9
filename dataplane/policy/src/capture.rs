//! The rules of tproxy OUTPUT as a decision about a connection that one of the box's own
//! programs opens: a list of steps for somebody who knows no chains.
//!
//! Invariant: a step leads to later steps only, and every way ends in a verdict.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use crate::{Hook, Network, NoListener, Program, RejectWith, RuleId, Verdict};

mod clause;
mod sketch;
#[cfg(test)]
mod tests;

use sketch::Sketch;

/// How many steps there may be.
pub const MAX_NODES: usize = 4096;

/// One step, and the rule or chain policy that counts whoever comes by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// What it does.
    pub step: Step,
    /// Which rule has matched here, or which chain's policy decides.
    pub rule: Option<RuleId>,
}

/// What a step does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Asks something, and leads to one of two steps.
    Ask {
        /// What it asks.
        question: Question,
        /// The step for yes.
        then: u16,
        /// The step for no.
        otherwise: u16,
    },
    /// Leads to another step.
    Pass {
        /// Which.
        then: u16,
    },
    /// It goes where it wants.
    Go,
    /// It is refused.
    Refuse(Refusal),
    /// It goes to a proxy.
    Redirect {
        /// The proxy's address.
        addr: Ipv4Addr,
        /// The proxy's port; none for the one that is asked for.
        port: Option<u16>,
        /// What becomes of it if nobody listens there.
        otherwise: NoListener,
    },
}

/// What is asked of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Question {
    /// The destination lies in a network.
    Network(Network),
    /// The destination lies between these.
    Range(RangeInclusive<Ipv4Addr>),
    /// The destination's port lies between these.
    Ports(RangeInclusive<u16>),
    /// The user who made the socket is one of these.
    Users(RangeInclusive<u32>),
    /// The group of whoever made the socket is one of these.
    Groups(RangeInclusive<u32>),
    /// The socket's mark under the mask.
    Mark {
        /// What must be left.
        value: u32,
        /// What is looked at.
        mask: u32,
    },
}

/// How a connection is refused.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Refusal {
    /// Dropped by a rule or a policy.
    Dropped,
    /// Refused in words.
    Rejected(RejectWith),
}

/// Why rules cannot decide about a connection before it has sent anything.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("rule {}: {what}", .rule.0)]
pub struct CaptureError {
    /// The rule.
    pub rule: RuleId,
    /// What is wrong with it.
    pub what: String,
}

/// The steps of a program's tproxy OUTPUT; none if its rules say nothing there.
///
/// # Errors
/// If a rule asks or does what is not possible when a connection is opened, or if there are more than
/// [`MAX_NODES`] steps.
pub fn nodes(program: &Program) -> Result<Vec<Node>, CaptureError> {
    let count: usize = program.chains.iter().map(Vec::len).sum();
    let ids = (count..).filter_map(number);
    let entry = program.entries.iter().zip(ids);
    let Some((entry, policy)) = entry
        .filter(|(entry, _)| entry.hook == Hook::TproxyOutput)
        .last()
    else {
        return Ok(Vec::new());
    };
    let chain = program.chains.get(entry.chain.0 as usize);
    if entry.policy == Verdict::Accept && chain.is_none_or(Vec::is_empty) {
        return Ok(Vec::new());
    }
    let mut sketch = Sketch::new(program);
    let (start, end) = (sketch.label(), sketch.label());
    sketch.chain(entry.chain, start, end, 0)?;
    sketch.bind(end);
    let step = match entry.policy {
        Verdict::Accept => Step::Go,
        Verdict::Drop => Step::Refuse(Refusal::Dropped),
    };
    sketch.verdict(step, policy)?;
    Ok(sketch.finish())
}

fn number(count: usize) -> Option<RuleId> {
    u32::try_from(count).ok().map(RuleId)
}
