//! Bad input and bad days, on real processes: what an operator reads, and what a fleet does then.
//!
//! Each test has a [`fleet::Fleet`] of its own on loopback addresses and ports of its own, in a
//! directory of its own; all of it is gone at the end, also when the test panics.

mod backend;
mod bird;
mod certificates;
mod days;
mod disk;
mod fleet;
mod isolation;
pub mod kit;
mod members;
mod operate;
mod ports;
mod start;
mod stop;
mod two;
mod vip;
