//! What can go wrong, each in one line that names the place and the cure.

use std::io;

use crate::messages;
use crate::xdp::Mode;

/// Why a program was not loaded, attached or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process may not do it.
    #[error(
        "{what}: not permitted; run as root or with CAP_NET_ADMIN and CAP_SYS_ADMIN (to look at attached programs and at the root control group)"
    )]
    Permission {
        /// What was tried.
        what: String,
    },
    /// The kernel or the driver lacks it.
    #[error("{what}: not supported here; {cure}")]
    Unsupported {
        /// What was tried.
        what: String,
        /// What would help.
        cure: String,
    },
    /// The driver cannot have the program in this mode; it may in another.
    #[error(
        "{interface}: XDP cannot be attached in {mode} mode: {detail}; use mode = \"generic\" for this port"
    )]
    ModeRefused {
        /// The interface.
        interface: String,
        /// The mode that was tried.
        mode: Mode,
        /// What the kernel said.
        detail: String,
    },
    /// Somebody else's program is where ours would go.
    #[error(
        "{interface}: {hook} is taken by the program \"{name}\" (id {id}), which is not xtproxy's; remove it or use another interface"
    )]
    Foreign {
        /// The interface.
        interface: String,
        /// Which place: "XDP (native)", "tc egress" and the like.
        hook: String,
        /// The program's name as the kernel knows it.
        name: String,
        /// The program's id.
        id: u32,
    },
    /// Somebody else's traffic control is where ours would go.
    #[error("{interface}: {what}; {cure}")]
    Occupied {
        /// The interface.
        interface: String,
        /// What is in the way.
        what: String,
        /// What would help.
        cure: String,
    },
    /// More than a map holds.
    #[error("{what}: {asked} asked for, at most {most} possible")]
    TooMany {
        /// Of what.
        what: String,
        /// How many there should be.
        asked: usize,
        /// How many there may be.
        most: usize,
    },
    /// A value that makes no sense.
    #[error("{what}")]
    Invalid {
        /// Which and why.
        what: String,
    },
    /// The kernel refused for another reason.
    #[error("{what}: {source}{}", detail_suffix(.detail))]
    Kernel {
        /// What was tried.
        what: String,
        /// What the kernel said, or nothing.
        detail: String,
        /// Its error code.
        source: io::Error,
    },
    /// The object compiled into this program is not the one that it expects.
    #[error(
        "the built-in BPF object \"{object}\" has no fitting {part}: the build is inconsistent"
    )]
    Object {
        /// Which object.
        object: &'static str,
        /// What is missing.
        part: String,
    },
}

fn detail_suffix(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(" ({detail})")
    }
}

impl Error {
    /// Sorts an error code that the kernel gave for `what`.
    pub(crate) fn from_io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        let detail = messages::take_kernel_message();
        match source
            .raw_os_error()
            .map(rustix::io::Errno::from_raw_os_error)
        {
            Some(rustix::io::Errno::PERM) => Self::Permission { what },
            _ => Self::Kernel {
                what,
                detail,
                source,
            },
        }
    }

    pub(crate) fn mode_refused(interface: &str, mode: Mode, source: &io::Error) -> Self {
        let said = messages::take_kernel_message();
        Self::ModeRefused {
            interface: interface.into(),
            mode,
            detail: format!("{source}{}", detail_suffix(&said)),
        }
    }

    /// The same for an error of libbpf-rs, which hides the code.
    pub(crate) fn from_libbpf(what: impl Into<String>, error: &libbpf_rs::Error) -> Self {
        let what = what.into();
        let detail = messages::take_kernel_message();
        match error.kind() {
            libbpf_rs::ErrorKind::PermissionDenied => Self::Permission { what },
            _ => Self::Kernel {
                what,
                detail,
                source: io::Error::other(error.to_string()),
            },
        }
    }
}
