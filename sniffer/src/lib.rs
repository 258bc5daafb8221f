//! The eyes: packets of the wire turned into flows with their counters and labels. `decode`, `classify` and `track` are plain
//! code without sockets, clocks or threads; `capture` and `report` are the doors.

pub mod capture;
pub mod classify;
pub mod decode;
pub mod read;
pub mod track;
#[cfg(test)]
mod wires;
