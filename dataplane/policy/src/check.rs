//! The check that makes the walk safe: every jump lands, no chain calls itself, nesting
//! and steps are bounded, and every action is where it has a meaning.

use std::collections::HashMap;

use crate::{
    Action, ChainId, Hook, MAX_NESTING, MAX_OWNERS, MAX_STEPS, Policy, ProgramError, Quality, Rule,
    RuleId,
};

impl Policy {
    pub(crate) fn check(&self) -> Result<(), ProgramError> {
        self.check_tests()?;
        self.check_places()?;
        let measures = self.measures()?;
        let entered = self.entries().map(|(_, entry)| entry.chain.0 as usize);
        let steps = |chain| {
            measures
                .get(chain)
                .copied()
                .flatten()
                .map_or(0, |m: Measure| m.steps)
        };
        if entered.map(steps).any(|steps| steps > MAX_STEPS) {
            return Err(ProgramError::TooLong);
        }
        Ok(())
    }

    /// Sets and owner tests are there.
    fn check_tests(&self) -> Result<(), ProgramError> {
        for (rule, asked) in (0..).map(RuleId).zip(&self.rules) {
            let is_there = |quality: &Quality| match quality {
                Quality::Set { set, .. } => (set.0 as usize) < self.sets.len(),
                Quality::Owner(owner) => usize::from(*owner) < self.owners.len(),
                _ => true,
            };
            if !asked.more.iter().all(|condition| is_there(&condition.test)) {
                return Err(ProgramError::NoSuchTest { rule });
            }
        }
        Ok(())
    }

    /// What can be met from a hook has a meaning there. A chain that several hooks of one
    /// table lead to is looked at once for each.
    fn check_places(&self) -> Result<(), ProgramError> {
        for (hook, entry) in self.entries() {
            let mut is_seen = vec![false; self.chains.len()];
            let mut pending = vec![entry.chain];
            while let Some(chain) = pending.pop() {
                let Some(seen) = is_seen.get_mut(chain.0 as usize) else {
                    return Err(ProgramError::NoSuchEntry(hook));
                };
                if std::mem::replace(seen, true) {
                    continue;
                }
                for (rule, met) in self.rules_of(chain) {
                    if !is_at_home(met.action, hook) {
                        return Err(ProgramError::Misplaced { rule, hook });
                    }
                    if hook != Hook::TproxyOutput && !self.knows_owners(met) {
                        return Err(ProgramError::Owners { rule });
                    }
                    if let Some(callee) = callee_of(met.action) {
                        if self.chain(callee).is_none() {
                            return Err(ProgramError::NoSuchChain { rule });
                        }
                        pending.push(callee);
                    }
                }
            }
        }
        Ok(())
    }

    fn knows_owners(&self, rule: &Rule) -> bool {
        rule.more.iter().all(|condition| match condition.test {
            Quality::Owner(owner) => {
                let owner = usize::from(owner);
                owner < MAX_OWNERS && self.owners.get(owner).is_some_and(|o| o.gids.is_none())
            }
            _ => true,
        })
    }

    fn jumps_of(&self, chain: ChainId) -> impl Iterator<Item = (RuleId, ChainId)> {
        self.rules_of(chain)
            .filter_map(|(id, rule)| callee_of(rule.action).map(|callee| (id, callee)))
    }

    /// Measures chains from the callees up, so that each is measured once however
    /// often it is called, and without recursion, for a circle is found by this too.
    /// A round measures at least all chains whose callees an earlier round measured, so
    /// there are no more rounds than levels of nesting.
    fn measures(&self) -> Result<Vec<Option<Measure>>, ProgramError> {
        let mut measures: Vec<Option<Measure>> = vec![None; self.chains.len()];
        let mut pending: Vec<u32> = (0..).take(self.chains.len()).collect();
        while !pending.is_empty() {
            let before = pending.len();
            // Callees are mostly declared after their callers.
            pending.reverse();
            let mut left = Vec::new();
            for id in pending {
                match self.measure(ChainId(id), &measures)? {
                    Some(measure) => {
                        if let Some(slot) = measures.get_mut(id as usize) {
                            *slot = Some(measure);
                        }
                    }
                    None => left.push(id),
                }
            }
            pending = left;
            if pending.len() == before {
                return Err(self.circle(pending.first().copied(), &measures));
            }
        }
        Ok(measures)
    }

    /// Steps and depth of one chain; none while a callee is not measured yet.
    fn measure(
        &self,
        id: ChainId,
        measures: &[Option<Measure>],
    ) -> Result<Option<Measure>, ProgramError> {
        let mut depth = 0;
        for (rule, callee) in self.jumps_of(id) {
            let slot = measures
                .get(callee.0 as usize)
                .ok_or(ProgramError::NoSuchChain { rule })?;
            let Some(callee) = slot else { return Ok(None) };
            depth = depth.max(callee.depth + 1);
            if depth > MAX_NESTING {
                return Err(ProgramError::TooDeep { rule });
            }
        }
        let steps = self.steps(id, |action| {
            let callee = callee_of(action).and_then(|c| *measures.get(c.0 as usize)?);
            callee.map_or(0, |callee: Measure| callee.steps)
        });
        Ok(Some(Measure { steps, depth }))
    }

    /// Every chain without a measure calls one without, so following them must come round.
    fn circle(&self, first: Option<u32>, measures: &[Option<Measure>]) -> ProgramError {
        let unmeasured = |chain: &ChainId| matches!(measures.get(chain.0 as usize), Some(None));
        let mut seen = HashMap::new();
        let mut jumps = Vec::new();
        let mut at = first.map(ChainId);
        while let Some(chain) = at {
            if let Some(first) = seen.insert(chain, jumps.len()) {
                jumps.drain(..first);
                break;
            }
            let next = self.jumps_of(chain).find(|(_, callee)| unmeasured(callee));
            jumps.extend(next.map(|(rule, _)| rule));
            at = next.map(|(_, callee)| callee);
        }
        ProgramError::Loop { jumps }
    }
}

/// What walking a chain can cost.
#[derive(Clone, Copy, Debug)]
struct Measure {
    steps: u64,
    depth: usize,
}

/// The chain that an action leads to.
const fn callee_of(action: Action) -> Option<ChainId> {
    match action {
        Action::Jump(chain) | Action::Goto(chain) => Some(chain),
        _ => None,
    }
}

/// Whether an action has a meaning in a hook's table.
fn is_at_home(action: Action, hook: Hook) -> bool {
    match action {
        Action::Redirect { .. } => hook.is_tproxy(),
        Action::Nat => hook.table() == "nat",
        Action::NoTrack => hook.table() == "raw",
        Action::Count
        | Action::Jump(_)
        | Action::Goto(_)
        | Action::Return
        | Action::Accept
        | Action::Drop
        | Action::Reject(_)
        | Action::Log
        | Action::Mark { .. } => true,
    }
}
