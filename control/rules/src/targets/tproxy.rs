//! `-j TPROXY`.

use policy::NoListener;
use wire::Protocol;

use super::Target;
use crate::error::{Fault, Parsed, did_you_mean_or, quoted};
use crate::option::{OptSpec, Options, plain};
use crate::place::Place;
use crate::value;

pub(super) const OPTIONS: &[OptSpec] = &[
    plain(&["--on-port"], "the proxy's port, as in 50080"),
    plain(&["--on-ip"], "an address of this machine"),
    plain(&["--on-no-listener"], "reject, drop or accept"),
    plain(
        &["--tproxy-mark"],
        "a value and perhaps a mask, as in 0x1/0x1",
    ),
];

/// What becomes of a connection whose proxy does not listen.
pub(super) const OTHERWISE: [(&str, NoListener); 3] = [
    ("reject", NoListener::Reject),
    ("drop", NoListener::Drop),
    ("accept", NoListener::Accept),
];

pub(super) fn target(
    options: &Options<'_>,
    place: Place,
    protocol: Option<Protocol>,
) -> Parsed<Target> {
    if !matches!(protocol, Some(Protocol::TCP | Protocol::UDP)) {
        return Err(Fault::new(
            place,
            "TPROXY needs -p tcp or -p udp in the same rule",
        ));
    }
    let on_port = options.get("--on-port");
    let on_ip = options.get("--on-ip");
    let mark = options.get("--tproxy-mark");
    let otherwise = options.get("--on-no-listener").map(|given| {
        let word = given.value();
        let known = OTHERWISE.iter().find(|(name, _)| *name == word.text);
        known.map(|(_, otherwise)| *otherwise).ok_or_else(|| {
            let names = OTHERWISE.iter().map(|(name, _)| *name);
            let cure = did_you_mean_or(&word.text, names, "write reject, drop or accept");
            let message = format!("--on-no-listener cannot be {}{cure}", quoted(&word.text));
            Fault::new(word.place, message)
        })
    });
    Ok(Target::Tproxy {
        on_port: on_port.map_or(Ok(None), |given| value::on_port(given.value()))?,
        on_ip: on_ip.map_or(Ok(None), |given| value::on_ip(given.value()))?,
        otherwise: otherwise.transpose()?.unwrap_or(NoListener::Reject),
        mark: mark.map(|given| value::masked(given.value())).transpose()?,
    })
}
