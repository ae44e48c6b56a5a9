//! The registry on a made-up box: every operation with every errno, one case each, in the orders
//! seen in real clients; lifetimes; restarts; random operations against a naive model. Every
//! refusal is followed by the check that nothing has changed.

/// Plays each case on a box of its own, and compares the errno of its last operation.
macro_rules! cases {
    ($($name:literal => |$lab:ident| $play:block => $want:expr,)*) => {$(
        let play: fn(&mut crate::lab::Lab) -> i32 = |$lab| $play;
        assert_eq!(play(&mut crate::lab::Lab::new()), $want, "{}", $name);
    )*};
}

mod adoption;
mod assigning;
mod clients;
mod common;
mod flagging;
mod lab;
mod lifetimes;
mod limits;
mod list;
mod made_up;
mod model;
mod naming;
mod originals;
mod steps;
