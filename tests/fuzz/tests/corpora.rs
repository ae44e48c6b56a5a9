//! Replays every kept input, whole and damaged. What breaks says which input it was.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use fuzz::{TARGETS, Target};

/// Inputs longer than this are replayed whole only: what the fuzzer found, not seeds.
const DAMAGED_UP_TO: usize = 2048;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn inputs(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = corpus().join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut inputs: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{} is empty", folder.display());
    inputs
}

fn feed(target: Target, path: &Path, how: &str, bytes: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err() {
        panic!("{} breaks it, {how}", path.display());
    }
}

/// Cut after every byte, and every byte set to what breaks lengths and counts.
fn replay(target: Target, path: &Path, bytes: &[u8]) {
    feed(target, path, "as it is", bytes);
    if bytes.len() > DAMAGED_UP_TO {
        return;
    }
    for at in 0..bytes.len() {
        feed(target, path, &format!("cut after {at} bytes"), &bytes[..at]);
        let mut damaged = bytes.to_vec();
        for value in [0, 1, 0x7f, 0x80, 0xff, bytes[at] ^ 1, bytes[at] ^ 0x40] {
            damaged[at] = value;
            feed(target, path, &format!("with byte {at} = {value}"), &damaged);
        }
    }
}

fn replay_all(name: &str) {
    let (_, target) = TARGETS.iter().find(|target| target.0 == name).unwrap();
    for (path, bytes) in inputs(name) {
        replay(*target, &path, &bytes);
    }
}

#[test]
fn headers() {
    replay_all("headers");
}

#[test]
fn batches() {
    replay_all("batches");
}

#[test]
fn ruleset() {
    replay_all("ruleset");
}

#[test]
fn request() {
    replay_all("request");
}

#[test]
fn channel() {
    replay_all("channel");
}

#[test]
fn registrations() {
    replay_all("registrations");
}

/// Each target has inputs and a fuzzer, and nothing else does.
#[test]
fn targets_folders_and_fuzzers_agree() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let names = |folder: PathBuf| -> BTreeSet<String> {
        let entries = fs::read_dir(folder).unwrap();
        let stem = |path: PathBuf| path.file_stem().unwrap().to_str().unwrap().to_owned();
        entries.map(|entry| stem(entry.unwrap().path())).collect()
    };
    assert_eq!(names(corpus()), targets);
    let fuzzers = Path::new(env!("CARGO_MANIFEST_DIR")).join("libfuzzer/targets");
    assert_eq!(names(fuzzers), targets);
}

/// A seed that no longer gets past the first check would leave the fuzzer at the door.
#[test]
fn seeds_are_good_ones() {
    let parses = |name: &str, good: &dyn Fn(&[u8]) -> bool| {
        let inputs = inputs(name);
        inputs.iter().filter(|(_, bytes)| good(bytes)).count()
    };
    let frame = |bytes: &[u8]| wire::Headers::parse(bytes.get(13..).unwrap_or_default()).is_ok();
    assert!(parses("headers", &frame) >= 15);
    let text = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        rules::Ruleset::parse("x", &text).is_ok()
    };
    assert!(parses("ruleset", &text) >= 5);
    assert!(parses("request", &|bytes| protocol::Envelope::parse(bytes).is_ok()) >= 5);
}
