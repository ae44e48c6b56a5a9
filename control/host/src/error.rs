//! What can go wrong on the box. Each message is one line that names the place and the cure.

use std::io;
use std::path::PathBuf;

/// An error of this room.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No interface of that name in this network namespace.
    #[error("interface {name} does not exist{}", hint(.nearest))]
    UnknownInterface {
        /// The name asked for.
        name: String,
        /// The existing name that looks most like it.
        nearest: Option<String>,
    },

    /// The kernel refused a netlink request, or cannot be asked.
    #[error("cannot {action}: {source}")]
    Netlink {
        /// What was tried.
        action: String,
        /// What the kernel said.
        source: io::Error,
    },

    /// A name that the kernel does not take, or that leaves no room for the other end's name.
    #[error(
        "host port name {name:?} cannot be used: give 1 to {max} letters, digits, '-', '_' or '.'"
    )]
    HostPortName {
        /// The name.
        name: String,
        /// Its greatest length.
        max: usize,
    },

    /// The host port's name is taken by a link that is not ours.
    #[error(
        "interface {name} exists and {owner}; set host_port to another name, or remove it with \
         `ip link delete {name}`"
    )]
    ForeignLink {
        /// The interface.
        name: String,
        /// What is known of its owner.
        owner: String,
    },

    /// The interface has no such offload.
    #[error("{interface}: the kernel knows no offload {feature}{}", hint(.nearest))]
    UnknownOffload {
        /// The interface.
        interface: String,
        /// The offload.
        feature: String,
        /// The existing name that looks most like it.
        nearest: Option<String>,
    },

    /// The driver does not let the offload be changed.
    #[error(
        "{interface}: offload {feature} is fixed {}; this driver does not let it be changed",
        on_off(.active)
    )]
    FixedOffload {
        /// The interface.
        interface: String,
        /// The offload.
        feature: String,
        /// How it is.
        active: bool,
    },

    /// The request was taken, but the offload stayed as it was.
    #[error(
        "{interface}: offload {feature} stayed {} though the kernel took the request; another \
         setting of the driver holds it (see `ethtool -k {interface}`)",
        on_off(.active)
    )]
    StubbornOffload {
        /// The interface.
        interface: String,
        /// The offload.
        feature: String,
        /// How it is.
        active: bool,
    },

    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", .path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },

    /// The journal of changes cannot be understood.
    #[error(
        "{}:{line}:{column}: not a journal of changes ({reason}); move it away: what it lists \
         will then not be restored",
        .path.display()
    )]
    Journal {
        /// The file.
        path: PathBuf,
        /// The line.
        line: usize,
        /// The column.
        column: usize,
        /// What is wrong there.
        reason: String,
    },

    /// The runtime folder cannot be used as such.
    #[error("runtime_dir {}: {reason}", .path.display())]
    RuntimeDir {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it, and the cure.
        reason: String,
    },

    /// Another daemon has the runtime folder.
    #[error(
        "another xtproxyd ({}) owns {}; stop it, or give this one another runtime_dir",
        holder(.pid), .path.display()
    )]
    Owned {
        /// The folder.
        path: PathBuf,
        /// The other daemon's process, if it said so.
        pid: Option<u32>,
    },

    /// Capabilities are missing.
    #[error("xtproxyd needs {missing}; run it as root or give it these capabilities")]
    Privileges {
        /// Their names.
        missing: String,
    },

    /// The kernel lacks something.
    #[error("{0}")]
    Kernel(String),
}

impl Error {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::File {
            action,
            path: path.into(),
            source,
        }
    }

    pub(crate) fn netlink(action: impl Into<String>, source: io::Error) -> Self {
        Self::Netlink {
            action: action.into(),
            source,
        }
    }

    /// A request that rtnetlink reports as failed.
    pub(crate) fn route(action: impl Into<String>, error: rtnetlink::Error) -> Self {
        let source = match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io(),
            other => io::Error::other(other.to_string()),
        };
        Self::netlink(action, source)
    }

    /// Whether it says that what was asked about is not there (any more).
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::UnknownInterface { .. } => true,
            Self::Netlink { source, .. } | Self::File { source, .. } => {
                source.kind() == io::ErrorKind::NotFound
                    || source.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error())
            }
            _ => false,
        }
    }
}

fn hint(nearest: &Option<String>) -> String {
    nearest
        .as_ref()
        .map(|name| format!("; did you mean {name}?"))
        .unwrap_or_default()
}

fn on_off(active: &bool) -> &'static str {
    if *active { "on" } else { "off" }
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(|| "pid unknown".to_owned(), |pid| format!("pid {pid}"))
}
