//! Sockets from their making to their end, by several threads at once.

use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};
use xtproxy_client::{Flags, Registrar};

use crate::call::{FOREIGN, bound};

/// How many sockets a second `threads` threads bring through their lives, `count` together.
/// The threads stand in the namespace of the caller.
pub fn per_second(registrar: Option<&Registrar>, threads: u32, count: u32) -> Result<f64> {
    let each = count.div_ceil(threads);
    let gate = Barrier::new(threads as usize + 1);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    gate.wait();
                    (0..each).try_for_each(|_| live(registrar))
                })
            })
            .collect();
        gate.wait();
        let start = Instant::now();
        for worker in workers {
            worker.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        Ok(f64::from(each * threads) / start.elapsed().as_secs_f64())
    })
}

fn live(registrar: Option<&Registrar>) -> Result<()> {
    let socket = bound()?;
    if let Some(registrar) = registrar {
        registrar.assign_with(&socket, FOREIGN, None, Flags::CONNECT)?;
        registrar.unassign(&socket)?;
    }
    Ok(())
}
