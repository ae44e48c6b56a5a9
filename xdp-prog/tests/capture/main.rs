//! What becomes of the box's own connections: by what is asked, by who asks, and by ways of
//! asking.

mod asked;
mod callers;
#[path = "../sockets/child.rs"]
#[allow(dead_code, reason = "the tests of sockets use the rest")]
mod child;
#[path = "../netns/mod.rs"]
mod netns;
mod place;
mod starting;
mod ways;

use place::PATIENCE;
