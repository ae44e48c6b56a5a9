//! The file `registrations` in the runtime folder, for the daemon that comes after: a header,
//! then a record at the place of each owner id. Written without fsync, because what kills the
//! box kills the sockets too.
//!
//! Invariants: what was read of an earlier file is kept until all of it is handled; what a
//! record says is believed only as far as the kernel agrees.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;
use tables::OwnerId;

use crate::client::Grant;
use crate::entry::Entry;
use crate::error::Error;
use crate::record::{self, Bytes, RECORD_BYTES};

/// The name of the file in the runtime folder by which registrations outlive the daemon.
pub const FILE: &str = "registrations";
const MAGIC: [u8; 8] = *b"xtp-regs";
const BOOT_AT: usize = 24;
const BOOT_BYTES: usize = 36;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What an earlier daemon left.
#[derive(Default)]
pub(crate) struct Left {
    pub(crate) entries: Vec<Entry>,
    /// Records that are none.
    pub(crate) damaged: usize,
}

/// The file.
pub(crate) struct Store {
    file: File,
    path: PathBuf,
    /// For the groups that a record keeps.
    grants: Vec<Grant>,
}

impl Store {
    /// Reads what is there, and begins a new file beside it.
    pub(crate) fn open(dir: &Path, grants: &[Grant]) -> Result<(Self, Left), Error> {
        let header = header().map_err(file_error("read", Path::new(BOOT_ID)))?;
        let path = dir.join(FILE);
        let left = read(&path, &header)?;
        let store = Self {
            file: create(&fresh(&path))?,
            path,
            grants: grants.to_vec(),
        };
        let written = store.file.write_all_at(&header.0, 0);
        written.map_err(file_error("write", &fresh(&store.path)))?;
        Ok((store, left))
    }

    /// Puts the new file in the old one's place.
    pub(crate) fn commit(&self) -> Result<(), Error> {
        let renamed = fs::rename(fresh(&self.path), &self.path);
        renamed.map_err(file_error("replace", &self.path))
    }

    pub(crate) fn write(&self, owner: OwnerId, entry: &Entry) -> io::Result<()> {
        self.put(owner, &record::encode(owner, entry, &self.grants))
    }

    pub(crate) fn clear(&self, owner: OwnerId) -> io::Result<()> {
        self.put(owner, &Bytes::EMPTY)
    }

    fn put(&self, owner: OwnerId, bytes: &Bytes) -> io::Result<()> {
        let place = u64::from(owner.0) * RECORD_BYTES as u64;
        self.file.write_all_at(&bytes.0, place)
    }
}

fn fresh(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File {
        doing,
        path,
        source,
    }
}

fn create(path: &Path) -> Result<File, Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(file_error("remove", path)(error));
        }
        _ => {}
    }
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(path);
    let file = file.map_err(file_error("create", path))?;
    let private = file.set_permissions(Permissions::from_mode(0o600));
    private.map_err(file_error("create", path))?;
    Ok(file)
}

/// The header of this boot: sockets have no other names before it.
fn header() -> io::Result<Bytes> {
    let boot = fs::read_to_string(BOOT_ID)?;
    let boot = boot.trim().as_bytes();
    let mut bytes = Bytes::EMPTY;
    bytes.put(BOOT_AT, &boot[..boot.len().min(BOOT_BYTES)]);
    bytes.seal(MAGIC);
    Ok(bytes)
}

fn read(path: &Path, header: &Bytes) -> Result<Left, Error> {
    let not_a_file = || Error::NotAFile {
        path: path.to_owned(),
    };
    // A pipe must not make the daemon wait, nor a link lead it elsewhere.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.bits().cast_signed());
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Left::default()),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::LOOP) => {
            return Err(not_a_file());
        }
        Err(error) => return Err(file_error("open", path)(error)),
    };
    let meta = file.metadata().map_err(file_error("read", path))?;
    if !meta.is_file() {
        return Err(not_a_file());
    }
    records(file, header).map_err(file_error("read", path))
}

fn records(file: File, header: &Bytes) -> io::Result<Left> {
    let most = (u64::from(OwnerId::MAX) + 1) * RECORD_BYTES as u64;
    let mut rest = io::BufReader::new(file.take(most));
    let mut left = Left::default();
    let mut bytes = Bytes::EMPTY;
    match fill(&mut rest, &mut bytes)? {
        // A file of another boot, of another version, or none of ours.
        filled if filled < RECORD_BYTES || bytes.0 != header.0 => return Ok(left),
        _ => {}
    }
    for owner in (1..=OwnerId::MAX).map(OwnerId) {
        bytes = Bytes::EMPTY;
        let filled = fill(&mut rest, &mut bytes)?;
        if filled == 0 {
            break;
        }
        match record::decode(owner, &bytes) {
            _ if bytes.0 == Bytes::EMPTY.0 => {}
            Some(entry) => left.entries.push(entry),
            None => left.damaged += 1,
        }
    }
    Ok(left)
}

/// Reads one record, or as much of it as there is.
fn fill(from: &mut impl Read, bytes: &mut Bytes) -> io::Result<usize> {
    let mut filled = 0;
    while filled < RECORD_BYTES {
        match from.read(&mut bytes.0[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
