//! The client library for C. `include/xtproxy.h` is its documentation.
//!
//! Invariant: no panic leaves a function, no pointer is used that was not checked, and nothing
//! is kept of what a pointer pointed to.
//! Never here: what a registration is; that is the library for Rust's.

mod address;
mod conveniences;
mod failure;
mod handle;
mod operations;
mod waiting;
