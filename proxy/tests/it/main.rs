//! What people and scripts see of an instance, from outside, against a fleet in memory.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cli;
mod cli_flows;
mod client;
mod flows;
mod grpc;
mod memory;
mod metrics;
mod process;
mod rest;
mod transparent;
