//! Gives programs that were written for TProxy 2.0, and those that ask for `SO_ORIGINAL_DST`,
//! what they want without a change to them: loaded by `LD_PRELOAD`, it answers a handful of
//! calls of theirs by asking the daemon, and passes all others on.
//!
//! Invariants: a call that is not ours reaches the C library with the same arguments, and its
//! answer and errno come back untouched; on that way nothing is allocated, locked or looked up.
//! A pointer of the program's is read and written through the kernel, so that a bad one is
//! EFAULT and not a crash. No panic and no word of output leaves this library.
//! Never here: what an operation does; the daemon knows that.
//!
//! `docs/preload.md` is for its users.

#[cfg(not(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64")))]
compile_error!("only 64-bit glibc is known: others have further names for these functions");

mod answers;
mod channel;
mod control;
mod datagram;
mod descriptors;
mod facts;
pub mod hooks;
mod inside;
mod memory;
mod option;
mod original;
mod process;
mod real;
mod report;
mod start;
mod wishes;

#[cfg(test)]
mod tests;
