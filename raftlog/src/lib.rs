//! The agreement: a replicated, durable log of opaque bytes in many groups. Knows nothing of what it carries.

pub mod disk;
pub mod driver;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
#[cfg(feature = "net")]
pub mod net;
pub mod plant;
#[cfg(feature = "sim")]
pub mod sim;
pub mod types;
pub mod wal;

pub use driver::{Action, Driver, DriverConfig};
pub use types::{GroupId, Index, NodeId, Record, Term};
