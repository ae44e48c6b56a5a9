//! Finds a chain's rules that may match a packet without looking at the others.
//!
//! Rules are filed under keys (see `filing`). All keys of one shape are in one hash
//! table; a packet is asked for once in each, but for those that its addresses and
//! destination port rule out beforehand. Decision 5 says why.

use std::collections::{BTreeMap, HashMap as Map};

use hashbrown::HashMap;

use crate::Rule;
use crate::cuts::Cuts;
use crate::filing::{Filed, GRAINS, Grain, file};
use crate::key::{Extra, Key, Mask, Shape, Whole};

/// A chain up to this long is read from top to bottom.
pub(crate) const SHORT: usize = 8;

/// How many shapes there may be: one bit each.
const MOST_SHAPES: usize = 64;

/// From how many shapes on it pays to rule some out beforehand.
const MANY_SHAPES: usize = 4;

/// How many keys one rule, and roughly how many a chain, may have.
const KEYS_PER_RULE: usize = 64;
const KEYS_PER_CHAIN: usize = 1 << 20;

/// Set in a candidate that a key says all about.
const SURE: u32 = 1 << 31;

/// A rule, by its place in the chain, that may match.
#[derive(Clone, Copy, Debug, Default)]
struct Candidate(u32);

impl Candidate {
    const fn rule(self) -> u32 {
        self.0 & !SURE
    }

    const fn is_sure(self) -> bool {
        self.0 & SURE != 0
    }
}

/// Where the candidates of a key are. The first is held here too.
#[derive(Clone, Copy, Debug, Default)]
struct Stretch {
    head: Candidate,
    at: u32,
    end: u32,
}

/// All keys of one shape.
#[derive(Debug)]
struct Drawer {
    mask: Mask,
    /// The first and the last rule in it.
    first: u32,
    last: u32,
    keys: HashMap<Key, Stretch>,
}

/// The rules of one chain, filed.
#[derive(Debug)]
pub(crate) struct Classifier {
    /// By their first rules.
    drawers: Box<[Drawer]>,
    /// The candidates of each key, in rising order.
    candidates: Box<[Candidate]>,
    by_source: Option<Cuts>,
    by_destination: Option<Cuts>,
    by_destination_port: Option<Cuts>,
}

type Files = BTreeMap<Shape, Map<Key, Vec<Candidate>>>;

impl Classifier {
    /// None if the chain is short.
    pub(crate) fn new(rules: &[Rule]) -> Option<Self> {
        if rules.len() <= SHORT || rules.len() >= SURE as usize {
            return None;
        }
        let most = (KEYS_PER_CHAIN / rules.len()).clamp(4, KEYS_PER_RULE);
        let files = GRAINS.iter().find_map(|grain| filed(rules, grain, most));
        let mut files: Vec<_> = files?.into_iter().collect();
        let first = |keys: &Map<Key, Vec<Candidate>>| {
            let heads = keys.values().filter_map(|list| list.first());
            heads.map(|head| head.rule()).min()
        };
        files.sort_by_cached_key(|(_, keys)| first(keys));
        let mut candidates = Vec::new();
        let cuts = |width, bits: fn(&Shape) -> u8, value: fn(&Key) -> u32| {
            let keys = files
                .iter()
                .map(|(shape, keys)| (shape, keys.keys().collect()));
            let pays = files.len() >= MANY_SHAPES;
            Cuts::new(keys, width, bits, value).filter(|_| pays)
        };
        let by_source = cuts(32, |shape| shape.source, Key::source);
        let by_destination = cuts(32, |shape| shape.destination, Key::destination);
        let by_destination_port = cuts(16, |s| s.destination_port, Key::destination_port);
        let drawers = files
            .into_iter()
            .map(|(shape, keys)| drawer(shape, keys, &mut candidates))
            .collect();
        Some(Self {
            drawers,
            candidates: candidates.into(),
            by_source,
            by_destination,
            by_destination_port,
        })
    }

    /// The first rule from `from` on that matches; `matches` is asked about each that may, in
    /// order and once.
    #[inline]
    pub(crate) fn next(
        &self,
        from: u32,
        whole: &Whole,
        is_tail: bool,
        matches: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        if self.drawers.len() <= 8 {
            self.next_of::<8>(from, whole, is_tail, matches)
        } else {
            self.next_of::<MOST_SHAPES>(from, whole, is_tail, matches)
        }
    }

    #[inline]
    fn next_of<const MOST: usize>(
        &self,
        from: u32,
        whole: &Whole,
        is_tail: bool,
        mut matches: impl FnMut(u32) -> bool,
    ) -> Option<u32> {
        let mut open = [Stretch::default(); MOST];
        let count = self.open(from, whole, is_tail, &mut open);
        let mut open = open.get_mut(..count)?;
        loop {
            let (nth, head) = open
                .iter()
                .enumerate()
                .map(|(nth, stretch)| (nth, stretch.head))
                .min_by_key(|(_, head)| head.rule())?;
            let rule = head.rule();
            if head.is_sure() || matches(rule) {
                return Some(rule);
            }
            // The same rule may be in other stretches too; it is not asked again.
            let mut stays = open.len();
            if open.len() == 1 {
                stays = usize::from(self.advance(open.get_mut(nth)?, rule));
            } else {
                let mut at = 0;
                while at < stays {
                    let stretch = open.get_mut(at)?;
                    if stretch.head.rule() != rule || self.advance(stretch, rule) {
                        at += 1;
                    } else {
                        stays -= 1;
                        open.swap(at, stays);
                    }
                }
            }
            open = open.get_mut(..stays)?;
        }
    }

    /// Finds the stretches of candidates from a rule on, and counts them.
    #[inline]
    fn open(&self, from: u32, whole: &Whole, is_tail: bool, open: &mut [Stretch]) -> usize {
        let mut left = self.likely(whole, is_tail);
        let mut limit = u32::MAX;
        let mut count = 0;
        while left != 0 {
            let nth = left.trailing_zeros();
            left &= left - 1;
            let Some(drawer) = self.drawers.get(nth as usize) else {
                break;
            };
            if drawer.first > limit {
                break;
            }
            if drawer.last < from || is_tail && drawer.mask.has_ports {
                continue;
            }
            let Some(stretch) = drawer.keys.get(&whole.under(&drawer.mask)) else {
                continue;
            };
            let mut stretch = *stretch;
            if stretch.head.rule() < from && !self.advance(&mut stretch, from - 1) {
                continue;
            }
            if stretch.head.is_sure() {
                limit = limit.min(stretch.head.rule());
            }
            if let Some(slot) = open.get_mut(count) {
                *slot = stretch;
                count += 1;
            }
        }
        count
    }

    /// The drawers that may have something, as bits.
    #[inline]
    fn likely(&self, whole: &Whole, is_tail: bool) -> u64 {
        let mut left = u64::MAX;
        if let Some(cuts) = &self.by_destination {
            left &= cuts.at(whole.destination());
        }
        // Looking into few drawers costs no more than ruling them out.
        if let Some(cuts) = self.by_source.as_ref().filter(|_| left.count_ones() > 2) {
            left &= cuts.at(whole.source());
        }
        if let Some(cuts) = self.by_destination_port.as_ref()
            && left.count_ones() > 2
            && !is_tail
        {
            left &= cuts.at(whole.destination_port());
        }
        left
    }

    /// Goes on behind a rule; false if nothing is left.
    #[inline]
    fn advance(&self, stretch: &mut Stretch, behind: u32) -> bool {
        let Some(rest) = self
            .candidates
            .get(stretch.at as usize..stretch.end as usize)
        else {
            return false;
        };
        // Mostly the next one is it.
        let skipped = match rest.first() {
            Some(next) if next.rule() > behind => 0,
            _ => rest.partition_point(|candidate| candidate.rule() <= behind),
        };
        let Some(head) = rest.get(skipped) else {
            return false;
        };
        stretch.head = *head;
        stretch.at += skipped as u32 + 1;
        true
    }

    /// At most so many steps one packet takes here, where candidate *n* costs `step(n)`.
    pub(crate) fn steps(&self, step: impl Fn(u32) -> u64) -> u64 {
        let of = |stretch: &Stretch| {
            let rest = self
                .candidates
                .get(stretch.at as usize..stretch.end as usize);
            let all = std::iter::once(&stretch.head).chain(rest.unwrap_or_default());
            all.fold(0u64, |sum, c| sum.saturating_add(step(c.rule())))
        };
        let most = |drawer: &Drawer| drawer.keys.values().map(of).max().unwrap_or(0);
        self.drawers.iter().fold(0u64, |sum, drawer| {
            sum.saturating_add(1).saturating_add(most(drawer))
        })
    }
}

/// Files all rules, or none if that takes too many shapes.
fn filed(rules: &[Rule], grain: &Grain, most: usize) -> Option<Files> {
    let mut files = Files::new();
    for (rule, place) in rules.iter().zip(0u32..) {
        let Filed { keys, is_exact } = file(rule, grain, most);
        for (shape, key) in keys {
            let list = files.entry(shape).or_default().entry(key).or_default();
            // Behind one that surely ends the walk nothing is reached; but a mark may change on the way.
            let is_shut = list.last().is_some_and(|last| {
                let before = rules.get(last.rule() as usize);
                last.is_sure()
                    && shape.extra != Extra::Mark
                    && before.is_some_and(|rule| rule.action.ends_chain())
            });
            if !is_shut && list.last().is_none_or(|last| last.rule() != place) {
                list.push(Candidate(if is_exact { place | SURE } else { place }));
            }
        }
        if files.len() > MOST_SHAPES {
            return None;
        }
    }
    Some(files)
}

fn drawer(shape: Shape, keys: Map<Key, Vec<Candidate>>, candidates: &mut Vec<Candidate>) -> Drawer {
    let mut drawer = Drawer {
        mask: shape.mask(),
        first: u32::MAX,
        last: 0,
        keys: HashMap::with_capacity(keys.len()),
    };
    for (key, list) in keys {
        let [head, rest @ ..] = list.as_slice() else {
            continue;
        };
        let at = candidates.len() as u32;
        candidates.extend_from_slice(rest);
        let stretch = Stretch {
            head: *head,
            at,
            end: candidates.len() as u32,
        };
        drawer.first = drawer.first.min(head.rule());
        drawer.last = drawer.last.max(list.last().map_or(0, |last| last.rule()));
        drawer.keys.insert(key, stretch);
    }
    drawer
}
