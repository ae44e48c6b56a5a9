//! A kernel that seems to lack a feature.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// Makes `socket(AF_XDP, …)` fail in this thread, and in what it starts, as on a kernel that
/// was built without it.
pub fn forbid_xdp_sockets() -> Result<()> {
    let filter = filter().context("cannot build the filter")?;
    apply_filter(&filter).context("cannot install the filter")
}

fn filter() -> Result<BpfProgram> {
    let is_xdp = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        u64::try_from(libc::AF_XDP)?,
    )?;
    let rules = BTreeMap::from([(libc::SYS_socket, vec![SeccompRule::new(vec![is_xdp])?])]);
    let error = u32::try_from(libc::EAFNOSUPPORT)?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(error),
        std::env::consts::ARCH.try_into()?,
    )?;
    Ok(filter.try_into()?)
}
