//! The eyes: packets of the wire turned into flows with their counters and labels. `decode`, `classify` and `track` are plain
//! code without sockets, clocks or threads; `capture`, `live` and `report` are the doors.

pub mod capture;
pub mod classify;
pub mod decode;
#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;
pub mod live;
pub mod observed;
pub mod pcapng;
pub mod read;
pub mod record;
pub mod report;
pub mod track;
#[cfg(any(test, feature = "fuzz"))]
mod wires;
