//! HTTP pools: HTTP/1.1 and h2c on one port, through pingora's proxy, one request at a time given to the fleet's choice.
//!
//! The front reads each HTTP/1 request's head itself and hands it to pingora whole. So the limits on heads are ours
//! (bytes, fields, time), a waiting connection owns no buffer, and what is no HTTP is turned away before it costs.

mod front;
mod gateway;
mod head;
mod stream;

pub use front::Front;
