//! Channels of proxies, each test in a network namespace of its own (as root).

mod channel;
mod conversation;
mod fixture;
mod namespace;
mod proxy;
