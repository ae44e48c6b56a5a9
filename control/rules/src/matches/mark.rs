//! `-m mark`.

use super::{Test, Tests};
use crate::error::Parsed;
use crate::option::{OptSpec, Options, tested};
use crate::value;

pub(super) const OPTIONS: &[OptSpec] = &[tested(
    &["--mark"],
    "a value and perhaps a mask, as in 0x1 or 0x1/0xff",
)];

pub(super) fn tests(options: &Options<'_>, tests: &mut Tests) -> Parsed<()> {
    if let Some(given) = options.get("--mark") {
        let (value, mask) = value::masked(given.value())?;
        tests.put(&given, Test::Mark { value, mask });
    }
    Ok(())
}
