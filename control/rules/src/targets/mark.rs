//! `-j MARK` and `-j CT`.

use super::{Kind, Target, needs};
use crate::error::Parsed;
use crate::option::{OptSpec, Options, flag, plain};
use crate::place::Place;
use crate::value;

const VALUE: &str = "a value and perhaps a mask, as in 0x1 or 0x1/0xff";
const BITS: &str = "bits, as in 0xff";
pub(super) const OPTIONS: &[OptSpec] = &[
    plain(&["--set-xmark"], VALUE),
    plain(&["--set-mark"], VALUE),
    plain(&["--and-mark"], BITS),
    plain(&["--or-mark"], BITS),
    plain(&["--xor-mark"], BITS),
];
const WAYS: [&str; 5] = [
    "--set-xmark",
    "--set-mark",
    "--and-mark",
    "--or-mark",
    "--xor-mark",
];

pub(super) const CT: &[OptSpec] = &[flag(&["--notrack"])];

pub(super) fn target(options: &Options<'_>, place: Place) -> Parsed<Target> {
    let given = options
        .only_one_of(&WAYS)?
        .ok_or_else(|| needs(Kind::Mark, place, "a value, as in --set-mark 0x1"))?;
    let word = given.value();
    // All five are one: clear the bits of the mask, then flip those of the value.
    let (value, mask) = match given.spec.name() {
        "--set-xmark" => value::masked(word)?,
        "--set-mark" => {
            let (value, mask) = value::masked(word)?;
            (value, value | mask)
        }
        "--and-mark" => (0, !value::bits(word)?),
        "--or-mark" => {
            let bits = value::bits(word)?;
            (bits, bits)
        }
        _ => (value::bits(word)?, 0),
    };
    Ok(Target::Mark { value, mask })
}

pub(super) fn ct(options: &Options<'_>, place: Place) -> Parsed<Target> {
    if options.has("--notrack") {
        Ok(Target::NoTrack)
    } else {
        Err(needs(
            Kind::Ct,
            place,
            "--notrack; nothing else of it is had here",
        ))
    }
}
