//! Whose turn it is: which reply of the server answers which command, and when the
//! proxy's own answers may be told, so that a client that does not wait gets all in order.

use std::collections::VecDeque;

/// How many commands may wait for their answers.
const MOST: usize = 32;

/// A command that was not answered yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// The server's greeting, or a command that is nothing to the proxy.
    Other,
    /// PORT or EPRT.
    Active,
    /// PASV or EPSV.
    Passive,
    /// One that the server has not seen: the proxy's answer.
    Own(String),
}

/// The commands that were not answered yet, in their order.
#[derive(Debug)]
pub(crate) struct Turns(VecDeque<Turn>);

impl Turns {
    /// A conversation begins: the server has to greet.
    pub(crate) fn new() -> Self {
        Self([Turn::Other].into())
    }

    /// Whether every command was answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether another command may be passed on.
    pub(crate) fn has_room(&self) -> bool {
        self.0.len() < MOST
    }

    /// A command that waits for its answer.
    pub(crate) fn put(&mut self, turn: Turn) {
        self.0.push_back(turn);
    }

    /// The command that a final reply answers.
    pub(crate) fn answered(&mut self, code: u16) -> Option<Turn> {
        // Some servers answer an interrupted command and its ABOR by one reply. A passive
        // answer shows how far they are.
        if matches!(code, 227 | 229)
            && let Some(at) = self.0.iter().position(|turn| *turn == Turn::Passive)
        {
            let later = self.0.split_off(at + 1);
            let passive = self.0.pop_back();
            self.0.retain(|turn| matches!(turn, Turn::Own(_)));
            self.0.extend(later);
            return passive;
        }
        self.0.pop_front()
    }

    /// The next answer of the proxy itself, if its turn has come.
    pub(crate) fn own(&mut self) -> Option<String> {
        match self.0.pop_front() {
            Some(Turn::Own(answer)) => Some(answer),
            Some(other) => {
                self.0.push_front(other);
                None
            }
            None => None,
        }
    }
}
