//! A bar for what takes long, on a terminal only.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// The bar. Dropped, it leaves no trace.
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// A bar that is not yet seen.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{msg:12} {wide_bar} {percent:>3} %") {
            bar.set_style(style);
        }
        Self(bar)
    }

    /// What is being done, and how far it is. Without a total nobody knows.
    pub(super) fn show(&self, stage: &str, done: u64, total: u64) {
        if self.0.message() != stage {
            // It comes from the daemon: nothing in it speaks to the terminal.
            let plain: String = stage.chars().filter(|c| !c.is_control()).collect();
            self.0.set_message(plain);
        }
        if total == 0 {
            self.0.enable_steady_tick(Duration::from_millis(100));
        } else {
            self.0.set_length(total);
            self.0.set_position(done.min(total));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
