//! The same for tokio's tasks.

mod client;
mod connector;
mod listener;

pub use client::AsyncClient;
pub use connector::foreign_connect;
pub use listener::ForeignListener;
