//! The hands: the instance that operators run, with its replica, its data path and everything people see of it.

pub mod choice;
pub mod cli;
pub mod config;
pub mod control;
pub mod grpc;
pub mod metric_names;
pub mod metrics;
pub mod node;
pub mod rest;
pub mod run;
pub mod traffic;
pub mod transparent;
pub mod vip;
