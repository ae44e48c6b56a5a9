//! Files with random content, and their checksums.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::run;

/// Writes `bytes` random bytes to `path`.
pub fn write_random(path: &Path, bytes: u64) -> Result<()> {
    let file = File::create(path).with_context(|| path.display().to_string())?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    let mut random = fastrand::Rng::new();
    let mut block = vec![0; 1 << 16];
    let mut left = bytes;
    while left > 0 {
        random.fill(&mut block);
        let take = usize::try_from(left)
            .unwrap_or(block.len())
            .min(block.len());
        file.write_all(block.get(..take).unwrap_or_default())?;
        left -= take as u64;
    }
    Ok(file.flush()?)
}

/// The SHA-256 of a file, in hex.
pub fn sha256(path: &Path) -> Result<String> {
    let text = run(Command::new("sha256sum").arg(path))?;
    let sum = text.split_whitespace().next();
    Ok(sum.context("sha256sum printed nothing")?.to_owned())
}
