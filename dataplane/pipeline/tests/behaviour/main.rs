//! What the pipeline promises, frame by frame. Every batch that any test sends through the
//! fixture is also held against the counters: no frame is lost, none is counted twice.

mod batches;
mod checksums;
mod drops;
mod fixture;
mod forgery;
mod icmp;
mod life;
mod local;
mod ports;
mod refusals;
mod reopening;
