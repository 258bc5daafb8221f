//! Only the names of protobuf 2.28 that the `prost` code of `raft` and `raft-proto` mentions.
//!
//! With the `prost-codec` feature those crates encode and decode with prost; protobuf's own parser is never called, yet
//! it stays in their dependency tree and carries RUSTSEC-2024-0437. This shim takes its place (see `[patch.crates-io]`).

use std::{any::Any, fmt};

/// What an encode or decode of a message can fail with.
#[derive(Debug)]
pub enum ProtobufError {
    /// The bytes are not a message.
    WireError(error::WireError),
}

impl fmt::Display for ProtobufError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed message")
    }
}

impl std::error::Error for ProtobufError {}

/// The result of an encode or decode.
pub type ProtobufResult<T> = Result<T, ProtobufError>;

/// Errors by kind.
pub mod error {
    /// The only kind the wrappers make.
    #[derive(Debug)]
    pub enum WireError {
        /// Prost said no.
        Other,
    }
}

/// Reflection, of which nothing is used.
pub mod reflect {
    /// Never made.
    pub enum MessageDescriptor {}
}

/// Never made: prost writes.
pub enum CodedOutputStream {}

/// Never made: prost reads.
pub enum CodedInputStream {}

/// Never made: prost drops unknown fields.
pub enum UnknownFields {}

/// Resets a message.
pub trait Clear {
    /// Sets every field to its default.
    fn clear(&mut self);
}

/// The methods that the wrappers implement.
#[allow(clippy::missing_errors_doc, missing_docs)]
pub trait Message: Clear + Any + Send + Sync {
    fn compute_size(&self) -> u32;
    fn get_cached_size(&self) -> u32;
    fn as_any(&self) -> &dyn Any;
    fn descriptor(&self) -> &'static reflect::MessageDescriptor;
    /// Never called in the prost build.
    fn descriptor_static() -> &'static reflect::MessageDescriptor
    where
        Self: Sized,
    {
        unreachable!("the prost build has no descriptors")
    }
    fn new() -> Self
    where
        Self: Sized;
    fn default_instance() -> &'static Self
    where
        Self: Sized;
    fn is_initialized(&self) -> bool;
    fn write_to_with_cached_sizes(&self, os: &mut CodedOutputStream) -> ProtobufResult<()>;
    fn merge_from(&mut self, is: &mut CodedInputStream) -> ProtobufResult<()>;
    fn get_unknown_fields(&self) -> &UnknownFields;
    fn mut_unknown_fields(&mut self) -> &mut UnknownFields;
    fn write_to_bytes(&self) -> ProtobufResult<Vec<u8>>;
    fn merge_from_bytes(&mut self, bytes: &[u8]) -> ProtobufResult<()>;
}
