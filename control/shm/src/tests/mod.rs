//! Both ends of a channel, and models of the words between them.

#[cfg(not(loom))]
mod ends;
#[cfg(not(loom))]
mod hostile;
#[cfg(not(loom))]
mod leaving;
#[cfg(loom)]
mod models;
#[cfg(not(loom))]
mod records;
