//! The room against the real kernel, in network namespaces of its own. Needs root.

mod addresses;
mod changes;
mod host_port;
mod links;
mod namespace;
mod privileges;
mod runtime_dir;
mod transfer;
