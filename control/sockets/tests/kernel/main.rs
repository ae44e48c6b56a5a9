//! Against the kernel's own sockets, each test in a network namespace of its own (as root).

mod alive;
mod connections;
mod facts;
mod listening;
mod namespace;
mod processes;
