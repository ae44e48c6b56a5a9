//! Who asks, for which socket, and what he is granted.

use std::net::{Ipv4Addr, SocketAddrV4};

use ipnet::Ipv4Net;

/// Who asks, as the kernel says.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Client {
    /// The process.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
    /// Its groups, the effective one and the supplementary ones.
    pub gids: Vec<u32>,
    /// Its name, for people to read.
    pub command: String,
}

/// The socket that a request is about, as the kernel says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Socket {
    /// Names the socket until the box starts again.
    pub cookie: u64,
    /// The protocol's number.
    pub proto: u8,
    /// Where it is bound; 0.0.0.0:0 if it is not.
    pub local: SocketAddrV4,
    /// What it is connected to.
    pub peer: Option<SocketAddrV4>,
    /// Whether it has `SO_REUSEADDR`.
    pub reuse: bool,
    /// Who owns it.
    pub uid: u32,
}

/// Who may register what, besides root. A grant that names neither user nor group is nobody's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The user.
    pub uid: Option<u32>,
    /// The group, effective or supplementary.
    pub gid: Option<u32>,
    /// The foreign addresses.
    pub foreign: Vec<Ipv4Net>,
}

impl Grant {
    /// Whether it names this user, who has these groups.
    #[must_use]
    pub fn is_for(&self, uid: u32, gids: &[u32]) -> bool {
        let is_his = self.uid.is_none_or(|own| own == uid);
        let is_theirs = self.gid.is_none_or(|own| gids.contains(&own));
        (self.uid.is_some() || self.gid.is_some()) && is_his && is_theirs
    }
}

/// Whether `grants` let this user register the address. 0.0.0.0 only marks the socket, so that
/// any grant will do. One of the box's own (`is_own`) must be named for itself: a network that is
/// granted seldom means the services of the box.
pub(crate) fn is_granted(
    grants: &[Grant],
    uid: u32,
    gids: &[u32],
    foreign: Ipv4Addr,
    is_own: bool,
) -> bool {
    let is_covered = |net: &Ipv4Net| net.contains(&foreign) && (!is_own || net.prefix_len() == 32);
    let covers = |grant: &Grant| foreign.is_unspecified() || grant.foreign.iter().any(is_covered);
    uid == 0
        || grants
            .iter()
            .any(|grant| grant.is_for(uid, gids) && covers(grant))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(uid: Option<u32>, gid: Option<u32>, foreign: &[&str]) -> Grant {
        let foreign = foreign.iter().map(|net| net.parse().unwrap()).collect();
        Grant { uid, gid, foreign }
    }

    #[test]
    fn grants_go_by_user_group_and_network() {
        let grants = [
            grant(Some(13), None, &["203.0.113.0/24"]),
            grant(None, Some(50), &["198.51.100.0/25", "192.0.2.7/32"]),
            grant(Some(14), Some(51), &["0.0.0.0/0"]),
            grant(None, None, &["0.0.0.0/0"]),
        ];
        type Case = (&'static str, u32, &'static [u32], [u8; 4], bool);
        let cases: [Case; 11] = [
            ("root", 0, &[], [8, 8, 8, 8], true),
            ("user", 13, &[1], [203, 0, 113, 255], true),
            ("user, other network", 13, &[1], [203, 0, 114, 0], false),
            ("group", 99, &[7, 50], [198, 51, 100, 127], true),
            (
                "group, past its network",
                99,
                &[50],
                [198, 51, 100, 128],
                false,
            ),
            ("group, second network", 99, &[50], [192, 0, 2, 7], true),
            ("both", 14, &[51], [8, 8, 8, 8], true),
            ("both, one missing", 14, &[52], [8, 8, 8, 8], false),
            ("nobody's grant", 99, &[99], [8, 8, 8, 8], false),
            ("mark only with a grant", 13, &[1], [0, 0, 0, 0], true),
            ("mark only without", 99, &[99], [0, 0, 0, 0], false),
        ];
        for (case, uid, gids, foreign, want) in cases {
            let got = is_granted(&grants, uid, gids, foreign.into(), false);
            assert_eq!(got, want, "{case}");
        }
    }

    #[test]
    fn an_address_of_the_box_must_be_named_for_itself() {
        let grants = [
            grant(Some(13), None, &["203.0.113.0/24", "0.0.0.0/0"]),
            grant(None, Some(50), &["203.0.113.7/32"]),
        ];
        let own = [203, 0, 113, 7].into();
        let other = [203, 0, 113, 8].into();
        assert!(!is_granted(&grants, 13, &[1], own, true));
        assert!(is_granted(&grants, 13, &[50], own, true));
        assert!(!is_granted(&grants, 13, &[50], other, true));
        assert!(is_granted(&grants, 13, &[1], own, false));
        assert!(is_granted(&grants, 0, &[], own, true), "root");
    }
}
