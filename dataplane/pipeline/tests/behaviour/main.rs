//! What the pipeline promises, frame by frame. Every batch that any test sends through the
//! fixture is also held against the counters: no frame is lost, none is counted twice.

mod batches;
mod checksums;
mod connecting;
mod datagrams;
mod direct;
mod drops;
mod fixture;
mod forgery;
mod guarding;
mod icmp;
mod judging;
mod leading;
mod life;
mod listening;
mod local;
mod ownership;
mod ports;
mod refusals;
mod registered_icmp;
mod rejecting;
mod reopening;
mod strangers;
mod workers;
