//! Knows how many tasks of a transport are alive, so that a shutdown can wait for the last.

use std::sync::Arc;

use tokio::sync::watch;

/// The count of tasks.
#[derive(Clone, Debug)]
pub(super) struct Tasks {
    alive: Arc<watch::Sender<usize>>,
}

/// One task that is alive; gone when this is dropped.
#[derive(Debug)]
pub(super) struct Alive {
    alive: Arc<watch::Sender<usize>>,
}

impl Tasks {
    pub(super) fn new() -> Tasks {
        Tasks { alive: Arc::new(watch::Sender::new(0)) }
    }

    /// To be taken before a task is spawned and moved into it.
    pub(super) fn enter(&self) -> Alive {
        self.alive.send_modify(|count| *count += 1);
        Alive { alive: self.alive.clone() }
    }

    /// Returns once no task is alive.
    pub(super) async fn finished(&self) {
        let mut alive = self.alive.subscribe();
        // The sender lives in self, so the channel cannot be closed here.
        if alive.wait_for(|count| *count == 0).await.is_err() {
            debug_assert!(false, "the counter of tasks is gone");
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.alive.send_modify(|count| *count -= 1);
    }
}
