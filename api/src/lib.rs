//! The public gRPC contract of an instance: what `proto/rocinante.proto` says, as Rust. Made by `cargo xtask codegen`.

/// Version 1 of the contract.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "made from the .proto file")]
pub mod v1 {
    include!("generated/rocinante.v1.rs");
}

/// The trailing metadata of an error that names its reason, one of a fixed set of words.
pub const REASON: &str = "rocinante-reason";
