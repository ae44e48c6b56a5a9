//! What is done with a foreign address.

use std::fmt;
use std::str::FromStr;

bitflags::bitflags! {
    /// What is done with a foreign address: the `ITP_` bits.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct Flags: u32 {
        /// Connections from the socket carry the foreign address.
        const CONNECT = 1;
        /// Connections and datagrams to the foreign address reach the socket.
        const LISTEN = 2;
        /// UDP with a recorded peer: both directions.
        const ESTABLISHED = 4;
        /// Stored, without effect.
        const ONCE = 0x1_0000;
        /// Told only: registered without a foreign address, so that rules can match it.
        const MARK = 0x2_0000;
        /// Told only: a flow has come of it.
        const APPLIED = 0x4_0000;
        /// UDP with `LISTEN`: datagrams of many sources to many destinations, one way.
        const UNIDIR = 0x8_0000;

        // Bits of a later daemon are told as they are.
        const _ = !0;
    }
}

/// The names, in lower case, as `xtproxy` shows and takes them.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = self.iter_names();
        let mut separator = "";
        for (name, _) in names.by_ref() {
            write!(f, "{separator}{}", name.to_lowercase())?;
            separator = ",";
        }
        match names.remaining().bits() {
            0 => Ok(()),
            rest => write!(f, "{separator}{rest:#x}"),
        }
    }
}

/// No flag has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no flag is named {0:?}: there are connect, listen, established, once and unidir, \
     with commas between them"
)]
pub struct UnknownFlag(String);

/// Names with commas between them. What is told only cannot be asked for.
impl FromStr for Flags {
    type Err = UnknownFlag;

    fn from_str(text: &str) -> Result<Self, UnknownFlag> {
        let told = Self::MARK | Self::APPLIED;
        text.split(',')
            .map(str::trim)
            .map(|name| {
                Self::from_name(&name.to_uppercase())
                    .filter(|flag| !told.intersects(*flag))
                    .ok_or_else(|| UnknownFlag(name.chars().take(64).collect()))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_shown_and_read() {
        let flags = Flags::CONNECT | Flags::ONCE | Flags::UNIDIR;
        assert_eq!(flags.to_string(), "connect,once,unidir");
        assert_eq!("connect, once,UNIDIR".parse(), Ok(flags));
        assert_eq!(Flags::from_bits_retain(0x12).to_string(), "listen,0x10");
        assert_eq!(Flags::empty().to_string(), "");
    }

    #[test]
    fn what_is_no_flag_is_named() {
        for text in ["", "connect,", "mark", "applied", "_", "listenn"] {
            let error = text.parse::<Flags>().unwrap_err();
            assert!(error.to_string().starts_with("no flag is named"), "{error}");
        }
    }
}
