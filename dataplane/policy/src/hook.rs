//! Where packets meet chains.

/// A table's chain on a packet's way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Hook {
    /// `raw` PREROUTING.
    RawPrerouting,
    /// `raw` OUTPUT.
    RawOutput,
    /// `mangle` PREROUTING.
    ManglePrerouting,
    /// `mangle` INPUT.
    MangleInput,
    /// `mangle` FORWARD.
    MangleForward,
    /// `mangle` OUTPUT.
    MangleOutput,
    /// `mangle` POSTROUTING.
    ManglePostrouting,
    /// `tproxy` PREROUTING.
    TproxyPrerouting,
    /// `tproxy` OUTPUT: decided when the box's own program connects, by no walk of a policy.
    TproxyOutput,
    /// `nat` PREROUTING.
    NatPrerouting,
    /// `nat` INPUT.
    NatInput,
    /// `nat` OUTPUT.
    NatOutput,
    /// `nat` POSTROUTING.
    NatPostrouting,
    /// `filter` INPUT.
    FilterInput,
    /// `filter` FORWARD.
    FilterForward,
    /// `filter` OUTPUT.
    FilterOutput,
}

impl Hook {
    /// Every hook; [`Hook::index`] is the place in this list.
    pub const ALL: [Self; 16] = [
        Self::RawPrerouting,
        Self::RawOutput,
        Self::ManglePrerouting,
        Self::MangleInput,
        Self::MangleForward,
        Self::MangleOutput,
        Self::ManglePostrouting,
        Self::TproxyPrerouting,
        Self::TproxyOutput,
        Self::NatPrerouting,
        Self::NatInput,
        Self::NatOutput,
        Self::NatPostrouting,
        Self::FilterInput,
        Self::FilterForward,
        Self::FilterOutput,
    ];

    /// Its place in [`Hook::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name of its table.
    #[must_use]
    pub const fn table(self) -> &'static str {
        match self {
            Self::RawPrerouting | Self::RawOutput => "raw",
            Self::ManglePrerouting
            | Self::MangleInput
            | Self::MangleForward
            | Self::MangleOutput
            | Self::ManglePostrouting => "mangle",
            Self::TproxyPrerouting | Self::TproxyOutput => "tproxy",
            Self::NatPrerouting | Self::NatInput | Self::NatOutput | Self::NatPostrouting => "nat",
            Self::FilterInput | Self::FilterForward | Self::FilterOutput => "filter",
        }
    }

    /// The name of its chain.
    #[must_use]
    pub const fn chain(self) -> &'static str {
        match self {
            Self::RawPrerouting
            | Self::ManglePrerouting
            | Self::TproxyPrerouting
            | Self::NatPrerouting => "PREROUTING",
            Self::MangleInput | Self::NatInput | Self::FilterInput => "INPUT",
            Self::MangleForward | Self::FilterForward => "FORWARD",
            Self::RawOutput
            | Self::MangleOutput
            | Self::TproxyOutput
            | Self::NatOutput
            | Self::FilterOutput => "OUTPUT",
            Self::ManglePostrouting | Self::NatPostrouting => "POSTROUTING",
        }
    }

    /// Whether it is one of the tproxy table's.
    #[must_use]
    pub const fn is_tproxy(self) -> bool {
        matches!(self, Self::TproxyPrerouting | Self::TproxyOutput)
    }

    /// Whether only transit passes it.
    #[must_use]
    pub const fn is_forward(self) -> bool {
        matches!(self, Self::MangleForward | Self::FilterForward)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_found_by_its_index() {
        for (index, hook) in Hook::ALL.into_iter().enumerate() {
            assert_eq!(hook.index(), index);
        }
    }
}
