//! The judge is judged: an honest fleet passes every scenario, and every kind of dishonest one is caught.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod backends;
mod bench;
mod fake;
mod relays;
mod verdicts;
