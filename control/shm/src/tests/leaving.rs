//! What a server leaves behind in the memory.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use crate::mailbox::{CLOSED, Posted, Wait};
use crate::memory::Memory;
use crate::{Access, Operation, Reply, Request, ServerEnd};

/// One slot in each state that a call can be in: whoever waits is told, and no reply is lost.
#[test]
fn every_call_without_a_reply_is_closed_and_no_other() {
    let (mut server, handover) = ServerEnd::create().unwrap();
    let memory = Memory::open(handover.memory.as_fd()).unwrap();
    let words = Request::new(Operation::Query, Access::Get, 3).words();
    let post = |slot: usize| {
        let call = memory.slots[slot].write(0, &words);
        assert_eq!(memory.post(slot), Posted::Quiet);
        call
    };
    let call = post(0);
    assert_eq!(server.serve(|_| Reply::refused(17)), Ok(1));
    post(1);
    assert_eq!(server.collect(), Ok(1));
    let _taken = server.take().unwrap().unwrap();
    post(2);
    assert_eq!(server.collect(), Ok(1));
    post(3);
    drop(server);
    let look = [0, 1, 2, 3, 4].map(|slot: usize| memory.slots[slot].look(call));
    let [answered, taken_one, collected, posted, idle] = look;
    assert_eq!(answered, Wait::Answered);
    let reply = Reply::parse(memory.slots[0].reply()).unwrap();
    assert_eq!(reply.errno, 17);
    assert_eq!([taken_one, collected, posted], [Wait::Closed; 3]);
    assert_eq!(idle, Wait::Garbled, "it never carried a call");
    assert_eq!(memory.posted.load(Ordering::Relaxed), CLOSED);
    memory.slots[4].write(0, &words);
    assert_eq!(memory.post(4), Posted::Closed);
}
