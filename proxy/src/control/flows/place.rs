//! Places in the table of flows, as one instance tells them and any may be asked to go on from: where a page ended, and up
//! to where who follows the table was told.

use std::fmt;

use flow::{FleetId, Revision, flows::FlowId};
use tokio::time::{Duration, Instant, timeout_at};

use super::{
    super::{Consistency, Control, ControlError, Result},
    FlowTables,
};

/// A place in each shard. It names its fleet: entries of another one mean nothing here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place<T> {
    /// The first 32 bits of the fleet's uuid.
    fleet: u32,
    pub(super) shards: Vec<(Revision, T)>,
}

/// Where a page ended: the last record shown, or looked at, of each shard.
pub type FlowCursor = Place<FlowId>;

/// Up to where who follows the table was told of everything: the entry, and how many records had left by then.
pub type FlowPosition = Place<Option<u64>>;

/// What a place has beside the entry.
pub trait Mark: Copy {
    /// What such a place is called, and where to get one.
    const EXPECTED: &str;
    /// The entry of a shard of which nothing was looked at, where that is none there is.
    const BEGIN: Option<Revision>;

    /// Reads what [`Mark::write`] writes.
    fn read(text: &str) -> Option<Self>;

    /// Writes it behind the entry.
    ///
    /// # Errors
    /// If it cannot be written.
    fn write(self, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

impl Mark for FlowId {
    const EXPECTED: &str = "cursor: take the `next` of the page before";
    const BEGIN: Option<Revision> = Some(CURSOR_BEGIN);

    fn read(text: &str) -> Option<Self> {
        u64::from_str_radix(text, 16).ok().map(Self)
    }

    fn write(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

impl Mark for Option<u64> {
    const EXPECTED: &str = "position in the table of flows: start, now, or an event's id";
    const BEGIN: Option<Revision> = None;

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(Some)
    }

    fn write(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.unwrap_or(0))
    }
}

impl<T> Place<T> {
    pub(super) fn new(tables: &FlowTables, shards: Vec<(Revision, T)>) -> Self {
        Self { fleet: short(tables.fleet), shards }
    }

    /// Whether it is of the fleet that these tables are of.
    #[must_use]
    pub fn is_of(&self, tables: &FlowTables) -> bool {
        self.fleet == short(tables.fleet)
    }

    /// The first 32 bits of its fleet's uuid.
    #[must_use]
    pub fn fleet(&self) -> u32 {
        self.fleet
    }
}

impl<T: Mark> Place<T> {
    /// The first shard of which it knows more than these tables have: its number, its entry there and theirs.
    fn ahead_of(&self, tables: &FlowTables) -> Option<(usize, Revision, Revision)> {
        let shards = self.shards.iter().zip(&tables.shards).enumerate();
        let mut places = shards.map(|(shard, ((at, _), table))| (shard, *at, table.applied()));
        places.find(|(_, at, applied)| *at > *applied && Some(*at) != T::BEGIN)
    }

    /// Reads what [`fmt::Display`] writes.
    ///
    /// # Errors
    /// If it is no place.
    pub fn parse(text: &str) -> Result<Self> {
        Self::read(text).ok_or_else(|| ControlError::Invalid(format!("{text:?} is no {}", T::EXPECTED)))
    }

    fn read(text: &str) -> Option<Self> {
        let (fleet, shards) = text.split_once('-')?;
        let fleet = (fleet.len() == 8).then(|| u32::from_str_radix(fleet, 16).ok())??;
        let shard = |part: &str| {
            let (revision, mark) = part.split_once('.')?;
            Some((Revision(revision.parse().ok()?), T::read(mark)?))
        };
        let shards: Vec<_> = shards.split('-').take(SHARDS_MAX + 1).map(shard).collect::<Option<_>>()?;
        (shards.len() <= SHARDS_MAX).then_some(Self { fleet, shards })
    }
}

impl<T: Mark> fmt::Display for Place<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.fleet)?;
        for (revision, mark) in &self.shards {
            write!(f, "-{revision}.")?;
            mark.write(f)?;
        }
        Ok(())
    }
}

impl FlowCursor {
    /// In front of everything.
    pub(super) fn begin(tables: &FlowTables) -> Self {
        Self::new(tables, vec![(CURSOR_BEGIN, FlowId(u64::MAX)); tables.shards.len()])
    }
}

impl FlowPosition {
    /// Before everything: all that is there comes first.
    #[must_use]
    pub fn start(tables: &FlowTables) -> Self {
        // Whoever knows nothing misses nothing of what left.
        let shards = tables.shards.iter();
        let forgotten = shards.map(|table| Some(table.left() - table.remembered_after(Revision(0))));
        Self::new(tables, forgotten.map(|left| (Revision(0), left)).collect())
    }

    /// What is there now is known.
    #[must_use]
    pub fn now(tables: &FlowTables) -> Self {
        let shards = tables.shards.iter();
        Self::new(tables, shards.map(|table| (table.applied(), Some(table.left()))).collect())
    }

    /// Of each shard, by its number, what was reached; a shard that is not named begins now. `fleet`: of which fleet that is
    /// ([`Place::fleet`]), if that is said.
    ///
    /// # Errors
    /// If there is no such shard.
    pub fn of(
        tables: &FlowTables,
        fleet: Option<u32>,
        shards: impl IntoIterator<Item = (u32, Revision, Option<u64>)>,
    ) -> Result<Self> {
        let mut position = Self::now(tables);
        position.fleet = fleet.unwrap_or(position.fleet);
        if !position.is_of(tables) {
            return Ok(position);
        }
        for (shard, revision, left) in shards {
            let Some(place) = position.shards.get_mut(shard as usize) else {
                return Err(ControlError::Invalid(format!("there is no shard {shard}")));
            };
            *place = (revision, left);
        }
        Ok(position)
    }

    /// What was reached, shard by shard: the entry, and how many records had left by then.
    pub fn shards(&self) -> impl Iterator<Item = (Revision, Option<u64>)> {
        self.shards.iter().copied()
    }
}

/// The table once it has what `place` knows of it, which another instance may have told that was ahead. What is of another
/// fleet, or of none that could be, is not waited for.
///
/// # Errors
/// `Unavailable` if it does not have it within [`CATCH_UP_PATIENCE`].
pub async fn tables_with<C: Control, T: Mark>(
    control: &C,
    consistency: Consistency,
    place: Option<&Place<T>>,
) -> Result<FlowTables> {
    let mut changed = control.flows_changed();
    let until = Instant::now() + CATCH_UP_PATIENCE;
    loop {
        changed.borrow_and_update();
        let tables = control.flows(consistency).await?;
        let place = place.filter(|place| place.is_of(&tables) && place.shards.len() == tables.shards.len());
        let Some((shard, at, applied)) = place.and_then(|place| place.ahead_of(&tables)) else { return Ok(tables) };
        if !matches!(timeout_at(until, changed.changed()).await, Ok(Ok(()))) {
            return Err(ControlError::Unavailable(format!(
                "entry {at} of shard {shard} is asked for, and this instance has them up to {applied}: it is behind the one \
                 that told so, or nobody did"
            )));
        }
    }
}

/// What positions and cursors say of a fleet.
fn short(fleet: FleetId) -> u32 {
    (fleet.0 >> 96) as u32
}

/// How long an instance may take to catch up with another one.
pub const CATCH_UP_PATIENCE: Duration = Duration::from_secs(2);

/// The entry of a cursor in front of everything.
const CURSOR_BEGIN: Revision = Revision(u64::MAX);

/// No fleet has more shards.
const SHARDS_MAX: usize = 64;
