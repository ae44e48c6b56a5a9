//! Who may register which foreign addresses.

use std::ops::Range;

use nix::unistd::{Group, User};
use toml::Spanned;

use super::error::Fault;
use super::text::{GrantTable, NameOrNumber};
use super::zones::network;
use super::{Grant, Whom};

pub fn grant(entry: Spanned<GrantTable>) -> Result<Grant, Fault> {
    let span = entry.span();
    let entry = entry.into_inner();
    let whom = match (entry.user, entry.group) {
        (Some(user), None) => Whom::User(number(&user, "user", |name| {
            Ok(User::from_name(name)?.map(|user| user.uid.as_raw()))
        })?),
        (None, Some(group)) => Whom::Group(number(&group, "group", |name| {
            Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()))
        })?),
        (Some(_), Some(group)) => {
            return Err(Fault::new(
                group.span(),
                "grant: give user or group, not both; write a second [[grant]] for the other",
            ));
        }
        (None, None) => {
            return Err(Fault::new(
                span,
                "grant needs user = \"NAME\" or group = \"NAME\": who may use the addresses",
            ));
        }
    };
    let networks = entry.foreign.get_ref().iter();
    let foreign: Vec<_> = networks
        .map(|given| network(given, "foreign"))
        .collect::<Result<_, _>>()?;
    if foreign.is_empty() {
        return Err(Fault::new(
            entry.foreign.span(),
            "grant: foreign is empty; list networks, or \"0.0.0.0/0\" for every address",
        ));
    }
    Ok(Grant { whom, foreign })
}

/// The number of a user or group that is given by name or number.
fn number(
    given: &Spanned<NameOrNumber>,
    what: &str,
    find: impl Fn(&str) -> nix::Result<Option<u32>>,
) -> Result<u32, Fault> {
    let place: Range<usize> = given.span();
    let refuse = |reason: &str| Fault::new(place.clone(), reason.to_owned());
    match given.get_ref() {
        NameOrNumber::Number(number) => Ok(*number),
        NameOrNumber::Name(name) => match find(name) {
            Ok(Some(number)) => Ok(number),
            Ok(None) => Err(refuse(&format!(
                "{what}: there is no {what} {name:?} on this machine; give a name that exists, or a number"
            ))),
            Err(error) => Err(refuse(&format!("{what}: {name:?}: {error}"))),
        },
    }
}
