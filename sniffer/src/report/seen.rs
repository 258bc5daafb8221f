//! An event as it is handed in to be reported, and how much it matters.

use flow::flows::Observed;

use crate::track::Kind;

/// Something happened to a flow, in the words of the fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What happened.
    pub kind: Kind,
    /// How the flow stands.
    pub observed: Observed,
}

/// How much an event matters, least first: those are given up first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    /// The flow goes on, and was told of before: a later event says it all.
    Update,
    /// The flow is over, and was told of before: the fleet forgets it by itself.
    End,
    /// The flow was not told of before.
    Begin,
}

impl Rank {
    pub const ALL: [Self; 3] = [Self::Update, Self::End, Self::Begin];

    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Start | Kind::Short(_) => Self::Begin,
            Kind::Update => Self::Update,
            Kind::End(_) => Self::End,
        }
    }
}
