//! The judge: backends that say their name, clients that ask all instances at once, and the rule that answers must obey.

pub mod anycast;
pub mod ask;
pub mod bench;
pub mod chance;
pub mod crowd;
pub mod demo;
pub mod error;
pub mod farm;
pub mod fleet;
pub mod flows;
pub mod http;
pub mod judge;
pub mod lab;
pub mod moment;
pub mod partition;
pub mod relay;
pub mod report;
pub mod scenario;
