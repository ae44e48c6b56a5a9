//! A ruleset with its sets, as it was read from files, and what its rules have matched.
//!
//! Invariant: a rulebook never changes but for its counters; a new text is a new rulebook.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use nix::unistd::{Group, User};
use pipeline::RuleHits;
use policy::{NoListener, Zones};
use rules::{Compiled, Environment, Interface, Ruleset, Sets, Target};

/// More than that is no ruleset.
const BYTES_MAX: u64 = 256 << 20;
/// The file of sets, beside a ruleset.
pub const SETS: &str = "ipset.conf";
/// Sets that go with a ruleset that is tried; a commit makes them [`SETS`].
pub const NEW_SETS: &str = "ipset.conf.new";

/// A ruleset with its sets.
pub struct Rulebook {
    /// Its file, if it has one.
    pub path: Option<PathBuf>,
    /// The file's text.
    pub text: String,
    /// The rules.
    pub ruleset: Ruleset,
    /// The sets that rules ask.
    pub sets: Sets,
    /// The text of their file.
    pub sets_text: String,
    /// What is odd about the text.
    pub warnings: Vec<String>,
    /// What its rules have matched.
    pub hits: Arc<RuleHits>,
    /// Users and groups by their names, as they were found first: that the box forgets one, or cannot
    /// ask for it, must not keep rules from coming back.
    names: Mutex<HashMap<(Kind, String), u32>>,
}

/// What a name is of.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    User,
    Group,
}

impl Rulebook {
    /// The rules of a box without any.
    pub fn empty(workers: usize) -> Self {
        let ruleset = Ruleset {
            file: "".into(),
            tables: Vec::new(),
        };
        Self::new(None, String::new(), ruleset, Sets::default(), workers)
    }

    /// Reads a ruleset and, if there is one, the file of its sets; tells `progress` how many
    /// lines are done, and of how many.
    pub fn read(
        path: &Path,
        sets: Option<&Path>,
        workers: usize,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Self> {
        let text = text(path)?;
        let name = path.display().to_string();
        let (ruleset, warnings) = Ruleset::parse_with(&name, &text, progress)?;
        let (sets, sets_text) = match sets {
            Some(sets) => {
                let text = self::text(sets)?;
                (Sets::parse(&sets.display().to_string(), &text)?, text)
            }
            None => (Sets::default(), String::new()),
        };
        let mut book = Self::new(Some(path.to_owned()), text, ruleset, sets, workers);
        book.sets_text = sets_text;
        book.warnings = warnings.iter().map(ToString::to_string).collect();
        Ok(book)
    }

    /// The same with the sets of the file that is beside the ruleset, if one is there.
    pub fn read_with_sets(path: &Path, workers: usize) -> Result<Self> {
        let sets = path.with_file_name(SETS);
        let sets = sets.is_file().then_some(sets.as_path());
        Self::read(path, sets, workers, &mut |_, _| {})
    }

    fn new(
        path: Option<PathBuf>,
        text: String,
        ruleset: Ruleset,
        sets: Sets,
        workers: usize,
    ) -> Self {
        let policies = ruleset.chains().filter(|chain| chain.policy.is_some());
        let hits = RuleHits::new(workers, ruleset.rule_count() + policies.count());
        Self {
            path,
            text,
            ruleset,
            sets,
            sets_text: String::new(),
            warnings: Vec::new(),
            hits: Arc::new(hits),
            names: Mutex::default(),
        }
    }

    /// Whether a rule has to know who listens where it redirects to.
    pub fn asks_listeners(&self) -> bool {
        self.ruleset.rules().any(|(.., rule)| {
            let target = rule.target.as_ref().map(|target| &target.value);
            let Some(Target::Tproxy { otherwise, .. }) = target else {
                return false;
            };
            *otherwise != NoListener::Reject
        })
    }

    /// The rules for this box.
    pub fn compile(
        &self,
        interfaces: &[Interface],
        zones: &Arc<Zones>,
        generation: u32,
    ) -> Result<Compiled> {
        let user = |name: &str| {
            self.number(Kind::User, name, || {
                User::from_name(name).ok()?.map(|user| user.uid.as_raw())
            })
        };
        let group = |name: &str| {
            self.number(Kind::Group, name, || {
                Group::from_name(name).ok()?.map(|group| group.gid.as_raw())
            })
        };
        let environment = Environment {
            interfaces,
            sets: &self.sets,
            zones,
            user: &user,
            group: &group,
        };
        Ok(rules::compile(&self.ruleset, &environment, generation)?)
    }
}

impl Rulebook {
    fn number(&self, kind: Kind, name: &str, find: impl FnOnce() -> Option<u32>) -> Option<u32> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind, name.to_owned());
        if let Some(number) = names.get(&key) {
            return Some(*number);
        }
        let number = find()?;
        names.insert(key, number);
        Some(number)
    }
}

fn text(path: &Path) -> Result<String> {
    let cannot = || format!("cannot read {}", path.display());
    // A pipe that nobody writes to would hold up all that changes rules.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
        .with_context(cannot)?;
    if !file.metadata().with_context(cannot)?.is_file() {
        bail!("{} is no file", path.display());
    }
    let mut text = String::new();
    file.take(BYTES_MAX + 1)
        .read_to_string(&mut text)
        .with_context(cannot)?;
    if text.len() as u64 > BYTES_MAX {
        bail!("{} is larger than 256 MiB", path.display());
    }
    Ok(text)
}
