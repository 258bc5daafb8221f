//! The Rust of `proto/link.proto`, made by `cargo xtask codegen`.

#![allow(missing_docs, clippy::all, clippy::pedantic, clippy::unwrap_used, clippy::expect_used)]

include!("raftlog.link.v1.rs");
