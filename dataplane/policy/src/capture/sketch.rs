//! Chains written out: what a chain calls stands where it is called.

use std::net::Ipv4Addr;

use super::clause::{self, Clause};
use super::{CaptureError, MAX_NODES, Node, Refusal, Step, number};
use crate::{Action, ChainId, MAX_NESTING, MAX_STEPS, Program, Rule, RuleId};

/// A place that steps lead to before it is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Label(usize);

#[derive(Clone, Copy, Debug)]
enum Place {
    Unknown,
    At(u16),
    SameAs(Label),
}

/// A step that leads to labels; its own numbers mean nothing yet.
struct Draft {
    node: Node,
    then: Label,
    otherwise: Label,
}

/// The steps that there are so far. Each leads to labels, which get their places later.
pub(super) struct Sketch<'p> {
    program: &'p Program,
    /// The number of each chain's first rule.
    firsts: Vec<usize>,
    places: Vec<Place>,
    drafts: Vec<Draft>,
    /// How many rules have been looked at.
    seen: u64,
}

impl<'p> Sketch<'p> {
    pub(super) fn new(program: &'p Program) -> Self {
        let lengths = program.chains.iter().map(Vec::len);
        let firsts = lengths.scan(0, |first, length| {
            let this = *first;
            *first += length;
            Some(this)
        });
        Self {
            program,
            firsts: firsts.collect(),
            places: Vec::new(),
            drafts: Vec::new(),
            seen: 0,
        }
    }

    pub(super) fn label(&mut self) -> Label {
        self.places.push(Place::Unknown);
        Label(self.places.len() - 1)
    }

    fn place(&mut self, label: Label, place: Place) {
        if let Some(slot) = self.places.get_mut(label.0) {
            *slot = place;
        }
    }

    /// The label is where the next step will be.
    pub(super) fn bind(&mut self, label: Label) {
        // There are never more steps than a u16 counts.
        let here = u16::try_from(self.drafts.len()).unwrap_or(u16::MAX);
        self.place(label, Place::At(here));
    }

    fn push(&mut self, draft: Draft, of: RuleId) -> Result<(), CaptureError> {
        if self.drafts.len() >= MAX_NODES {
            return Err(CaptureError {
                rule: of,
                what: format!(
                    "up to here the rules of tproxy OUTPUT take more than {MAX_NODES} steps, each call of a chain and each entry of a set counted; shorten them"
                ),
            });
        }
        self.drafts.push(draft);
        Ok(())
    }

    pub(super) fn verdict(&mut self, step: Step, rule: RuleId) -> Result<(), CaptureError> {
        let nowhere = Label(usize::MAX);
        self.lead(step, nowhere, rule)
    }

    /// A step without a question.
    fn lead(&mut self, step: Step, to: Label, rule: RuleId) -> Result<(), CaptureError> {
        let draft = Draft {
            node: Node {
                step,
                rule: Some(rule),
            },
            then: to,
            otherwise: to,
        };
        self.push(draft, rule)
    }

    /// The rules of a chain, from `start`; what comes out goes on at `end`.
    pub(super) fn chain(
        &mut self,
        chain: ChainId,
        start: Label,
        end: Label,
        depth: usize,
    ) -> Result<(), CaptureError> {
        let index = chain.0 as usize;
        let first = self.firsts.get(index).copied().unwrap_or_default();
        let program = self.program;
        let rules = program.chains.get(index).into_iter().flatten();
        let mut here = start;
        for (rule, id) in rules.zip((first..).filter_map(number)) {
            self.seen += 1;
            if depth > MAX_NESTING || self.seen > MAX_STEPS {
                let what = "chains call each other in a circle, too deep or too often".to_owned();
                return Err(CaptureError { rule: id, what });
            }
            let clauses = self.clauses(rule, id)?;
            if clauses.contains(&Clause::Never) {
                continue;
            }
            let next = self.label();
            self.bind(here);
            let is_asked = clauses.iter().any(|clause| *clause != Clause::Always);
            for clause in clauses {
                self.clause(clause, next, id)?;
            }
            self.action(rule.action, id, next, end, depth)?;
            here = next;
            // The rest of the chain is never met.
            if !is_asked && rule.action.ends_chain() {
                return Ok(());
            }
        }
        self.place(here, Place::SameAs(end));
        Ok(())
    }

    fn clauses(&self, rule: &Rule, id: RuleId) -> Result<Vec<Clause>, CaptureError> {
        clause::clauses(self.program, rule).map_err(|what| CaptureError { rule: id, what })
    }

    /// Goes on behind the last step if the clause holds, else to `no`.
    fn clause(&mut self, clause: Clause, no: Label, of: RuleId) -> Result<(), CaptureError> {
        let Clause::Asked {
            alternatives,
            negated,
        } = clause
        else {
            return Ok(());
        };
        let behind = self.label();
        let (holds, fails) = if negated { (no, behind) } else { (behind, no) };
        let mut left = alternatives.into_iter().peekable();
        while let Some(questions) = left.next() {
            let is_last = left.peek().is_none();
            let other = if is_last { fails } else { self.label() };
            let mut questions = questions.into_iter().peekable();
            while let Some(question) = questions.next() {
                let then = match questions.peek() {
                    Some(_) => self.label(),
                    None => holds,
                };
                let draft = Draft {
                    node: Node {
                        step: Step::Ask {
                            question,
                            then: 0,
                            otherwise: 0,
                        },
                        rule: None,
                    },
                    then,
                    otherwise: other,
                };
                self.push(draft, of)?;
                if questions.peek().is_some() {
                    self.bind(then);
                }
            }
            if !is_last {
                self.bind(other);
            }
        }
        self.bind(behind);
        Ok(())
    }

    fn action(
        &mut self,
        action: Action,
        id: RuleId,
        next: Label,
        end: Label,
        depth: usize,
    ) -> Result<(), CaptureError> {
        let pass = Step::Pass { then: 0 };
        let refused = |what: &str| CaptureError {
            rule: id,
            what: what.to_owned(),
        };
        match action {
            Action::Count => self.lead(pass, next, id),
            Action::Return => self.lead(pass, end, id),
            Action::Jump(chain) | Action::Goto(chain) => {
                let start = self.label();
                self.lead(pass, start, id)?;
                let is_goto = matches!(action, Action::Goto(_));
                let back = if is_goto { end } else { next };
                self.chain(chain, start, back, depth + 1)
            }
            Action::Accept => self.verdict(Step::Go, id),
            Action::Drop => self.verdict(Step::Refuse(Refusal::Dropped), id),
            Action::Reject(with) => self.verdict(Step::Refuse(Refusal::Rejected(with)), id),
            Action::Redirect {
                addr,
                port,
                otherwise,
            } => {
                let addr = addr.unwrap_or(Ipv4Addr::LOCALHOST);
                let step = Step::Redirect {
                    addr,
                    port,
                    otherwise,
                };
                self.verdict(step, id)
            }
            Action::Log => Err(refused(
                "tproxy OUTPUT is asked before there is a packet to log; log in filter OUTPUT",
            )),
            Action::Mark { .. } => Err(refused(
                "tproxy OUTPUT is asked before there is a packet to mark; mark in mangle OUTPUT",
            )),
            Action::NoTrack | Action::Nat => {
                Err(refused("this target has no meaning in tproxy OUTPUT"))
            }
        }
    }

    fn resolve(&self, label: Label) -> u16 {
        let mut at = label;
        // Labels that are the same as others were made before them or lie behind them: no circle.
        loop {
            match self.places.get(at.0) {
                Some(Place::SameAs(other)) => at = *other,
                Some(Place::At(place)) => return *place,
                Some(Place::Unknown) | None => return u16::MAX,
            }
        }
    }

    pub(super) fn finish(mut self) -> Vec<Node> {
        let drafts = std::mem::take(&mut self.drafts);
        let finished = drafts.into_iter().map(|draft| {
            let mut node = draft.node;
            match &mut node.step {
                Step::Ask {
                    then, otherwise, ..
                } => {
                    *then = self.resolve(draft.then);
                    *otherwise = self.resolve(draft.otherwise);
                }
                Step::Pass { then } => *then = self.resolve(draft.then),
                Step::Go | Step::Refuse(_) | Step::Redirect { .. } => {}
            }
            node
        });
        finished.collect()
    }
}
