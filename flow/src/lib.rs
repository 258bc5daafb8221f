//! The words of the fleet: keys, backends, pools, picks, commands and the tables they make. Pure: no I/O, no clock.

pub mod ids;
pub mod pool;

pub mod command;
pub mod control;
pub mod pins;
pub mod sessions;
pub mod snapshot;
pub mod wire;

pub mod cache;
pub mod health;
pub mod pick;
pub mod tally;
pub mod tuning;
pub mod view;

pub mod app;
pub mod flows;
pub mod tuple;

pub mod plant;

pub use command::{
    Birth, ControlCommand, ControlOutcome, EpochCopy, MemberAddress, Pin, PinCommand, PinOutcome, Request,
    ServerChange, SessionOwner, Standing,
};
pub use control::ControlTable;
pub use health::{HealthCounter, View};
pub use ids::{BackendId, Epoch, FleetId, Incarnation, InstanceId, LogTime, PinKey, PoolId, Revision, SessionId};
pub use pick::{LeastConnections, MAX_SERVERS_PER_POOL, RoundRobin, SlotTable, slot_of};
pub use pins::{Lookup, PinTable};
pub use pool::{
    Balance, Bind, Commit, HealthKind, HealthSpec, OnIsolation, PoolSpec, Protocol, ServerSpec, ServerState,
};
pub use sessions::SessionRefusal;
pub use tuning::{Detector, Tuning};
pub use view::{Answer, GroupView, Lease};
