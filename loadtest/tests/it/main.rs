//! The judge is judged: an honest fleet passes every scenario, and every kind of dishonest one is caught.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod backends;
mod bench;
mod fake;
mod partition;
mod relays;
mod verdicts;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Until this is dropped nothing else here takes the machine: a verdict must not judge the bench beside it.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
