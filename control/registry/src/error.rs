//! Why the registry could not be opened.

use std::io;
use std::path::PathBuf;

/// Why the registry could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file of registrations could not be used.
    #[error(
        "cannot {doing} {}: {source}; the runtime folder must be the daemon's own and have room",
        path.display()
    )]
    File {
        /// What was tried.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another thing stands where the file of registrations should.
    #[error("{} is not a plain file; remove it", path.display())]
    NotAFile {
        /// Where.
        path: PathBuf,
    },
    /// The box could not be asked which sockets live.
    #[error(
        "cannot ask the kernel which sockets live: {0}; registrations of before cannot be taken over"
    )]
    World(#[source] io::Error),
}
