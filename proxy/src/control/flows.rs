//! The table of flows as people and scripts ask for it: by name, by page, as it changes.

mod place;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use flow::{
    FleetId, LogTime, Revision,
    app::App,
    flows::{
        Change, FlowCommand, FlowId, FlowOutcome, FlowRecord, FlowTable, LABEL_BYTES_MAX, LABELS_BYTES_MAX, LABELS_MAX,
        Reporter, SnifferId, Standing, Verdict,
    },
    tuple::{Endpoint, FlowKey, id_of_community},
};

pub use place::{CATCH_UP_PATIENCE, FlowCursor, FlowPosition, Place, tables_with};

use super::{Applied, Control, ControlError, Result};

/// The table as one instance has it at one moment.
#[derive(Clone, Debug)]
pub struct FlowTables {
    /// Whose it is.
    pub fleet: FleetId,
    /// Its shards, by their numbers.
    pub shards: Vec<Arc<FlowTable>>,
}

/// By what a flow is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FlowName {
    /// The id of its 5-tuple.
    Five(FlowId),
    /// The id of its 7-tuple.
    Seven(FlowId),
    /// All with the 5-tuple of this id: what a Community ID or a key says.
    All(FlowId),
}

/// A record, and where it was found.
#[derive(Clone, Debug)]
pub struct FoundFlow {
    /// In which shard.
    pub shard: u32,
    /// Its id there.
    pub id: FlowId,
    /// The record.
    pub record: FlowRecord,
    /// The log time of the shard.
    pub now: LogTime,
    /// The names of those who saw it, in the order of its observations; empty where one is not known any more.
    pub observers: Vec<Arc<str>>,
}

/// The pool and server that a flow's client is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowBackend {
    /// The pool.
    pub pool: String,
    /// The client; none: the flow is this fleet's own to the server.
    pub client: Option<IpAddr>,
    /// The server.
    pub server: String,
    /// Its address and port.
    pub address: std::net::SocketAddr,
}

/// A sniffer in its last life, as far as its reports came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnifferReports {
    /// Who.
    pub id: SnifferId,
    /// Its name.
    pub name: Arc<str>,
    /// Its last life.
    pub epoch: u64,
    /// The last batch of this life in each shard; 0 where there is none.
    pub sequences: Vec<u64>,
    /// How long it has said nothing to any shard, in milliseconds of log time.
    pub silent_ms: u64,
}

/// What a flow must be to be shown. What is not said lets everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowFilter {
    /// Either end lies in it: address and length.
    pub prefix: Option<(IpAddr, u8)>,
    /// Either end has it.
    pub port: Option<u16>,
    /// IANA protocol number.
    pub protocol: Option<u8>,
    /// What it carries.
    pub app: Option<App>,
    /// The host is that name, or one below it.
    pub host: Option<String>,
    /// How far it is.
    pub state: Option<Standing>,
    /// Who saw it.
    pub observer: Option<SnifferId>,
}

/// A page of flows, and where the next one begins.
#[derive(Clone, Debug)]
pub struct FlowPage {
    /// What changed last in front.
    pub flows: Vec<FoundFlow>,
    /// None: that was all.
    pub next: Option<FlowCursor>,
}

/// What who follows the table is told.
#[derive(Clone, Debug)]
pub enum FlowNews {
    /// The position was of another fleet, or of this one before it was restored: nothing that was told before is so any more.
    /// All there is follows.
    Reset,
    /// The record is so now.
    Changed(Box<FoundFlow>),
    /// A record left the table.
    Left {
        /// Which.
        id: FlowId,
        /// In which shard.
        shard: u32,
        /// With which entry.
        revision: Revision,
    },
    /// Records left of which it is not told any more.
    Lagged {
        /// In which shard.
        shard: u32,
        /// With entries up to there.
        revision: Revision,
        /// How many; none: whoever asks did not say how many it knew of.
        missed: Option<u64>,
    },
}

/// Follows the table.
#[derive(Clone, Debug)]
pub struct FlowWatch {
    position: FlowPosition,
    filter: FlowFilter,
    /// What left before is no news to whoever began with nothing, shard by shard.
    began: Vec<Revision>,
    /// The shard that is looked at first: each has its turn.
    turn: usize,
}

impl FlowTables {
    /// How many shards there are.
    #[must_use]
    pub fn shard_count(&self) -> u32 {
        self.shards.len() as u32
    }

    /// The lowest index applied in any shard.
    #[must_use]
    pub fn applied(&self) -> u64 {
        self.shards.iter().map(|table| table.applied().0).min().unwrap_or(0)
    }

    /// How far each sniffer's reports came, with the last batch of each shard.
    #[must_use]
    pub fn sniffers(&self) -> BTreeMap<SnifferId, Vec<Option<(Reporter, LogTime)>>> {
        let mut sniffers: BTreeMap<SnifferId, Vec<_>> = BTreeMap::new();
        for (shard, table) in self.shards.iter().enumerate() {
            for (id, reporter) in table.sniffers() {
                let of = sniffers.entry(*id).or_insert_with(|| vec![None; self.shards.len()]);
                of[shard] = Some((reporter.clone(), table.time()));
            }
        }
        sniffers
    }

    /// Every sniffer in its last life.
    #[must_use]
    pub fn sniffer_reports(&self) -> Vec<SnifferReports> {
        let report = |(id, of): (SnifferId, Vec<Option<(Reporter, LogTime)>>)| {
            let (newest, _) = of.iter().flatten().max_by_key(|(reporter, _)| reporter.epoch)?;
            let sequence = |one: &Option<(Reporter, LogTime)>| {
                let current = one.as_ref().filter(|(reporter, _)| reporter.epoch == newest.epoch);
                current.map_or(0, |(reporter, _)| reporter.sequence)
            };
            let silent = of.iter().flatten().map(|(reporter, now)| now.0.saturating_sub(reporter.at.0));
            Some(SnifferReports {
                id,
                name: Arc::clone(&newest.name),
                epoch: newest.epoch,
                sequences: of.iter().map(sequence).collect(),
                silent_ms: silent.min().unwrap_or(0),
            })
        };
        self.sniffers().into_iter().filter_map(report).collect()
    }

    /// The flows of a name; several where a Community ID or key has several 7-tuples, `most` at most.
    #[must_use]
    pub fn get(&self, name: &FlowName, most: usize) -> Vec<FoundFlow> {
        match *name {
            // A 5-tuple's own record comes before those of its 7-tuples.
            FlowName::Five(id) => self.of_five(id).take(1).filter(|found| found.record.seventh.is_none()).collect(),
            FlowName::All(id) => self.of_five(id).take(most).collect(),
            // Where a 7-tuple is depends on its 5-tuple.
            FlowName::Seven(id) => (0..self.shard_count())
                .filter_map(|shard| self.found(shard, id, self.shards[shard as usize].get(id)?))
                .filter(|found| found.record.seventh.is_some())
                .take(most)
                .collect(),
        }
    }

    /// The flows of several names, and the places of those that have none.
    ///
    /// # Errors
    /// If there are more than [`FOUND_MAX`].
    pub fn look_up(&self, names: &[FlowName]) -> Result<(Vec<FoundFlow>, Vec<usize>)> {
        let (mut flows, mut missing) = (Vec::new(), Vec::new());
        for (place, name) in names.iter().enumerate() {
            let found = self.get(name, FOUND_MAX + 1 - flows.len());
            if found.is_empty() {
                missing.push(place);
            }
            flows.extend(found);
            if flows.len() > FOUND_MAX {
                let text = format!("more than {FOUND_MAX} flows have these names: at most {FOUND_MAX} are shown");
                return Err(ControlError::Invalid(text));
            }
        }
        Ok((flows, missing))
    }

    fn of_five(&self, id: FlowId) -> impl Iterator<Item = FoundFlow> {
        let shard = flow::flows::shard_of(id, self.shard_count());
        let table = self.shards.get(shard as usize).into_iter();
        table.flat_map(move |table| table.of_five(id)).filter_map(move |(id, record)| self.found(shard, id, record))
    }

    fn found(&self, shard: u32, id: FlowId, record: &FlowRecord) -> Option<FoundFlow> {
        let table = self.shards.get(shard as usize)?;
        let name =
            |sniffer| table.sniffer(sniffer).map_or_else(|| Arc::from(""), |reporter| Arc::clone(&reporter.name));
        let observers = record.observations().iter().map(|seen| name(seen.sniffer)).collect();
        Some(FoundFlow { shard, id, record: record.clone(), now: table.time(), observers })
    }

    /// The next page: of all shards what was seen last, each in the order of its changes. A flow that changes meanwhile is
    /// in front again. At most [`SCAN_MAX`] records are looked at, so a page may be short, or empty, and not the last.
    ///
    /// # Errors
    /// If the cursor is of another fleet.
    pub fn page(&self, filter: &FlowFilter, limit: usize, after: Option<FlowCursor>) -> Result<FlowPage> {
        let mut cursor = after.unwrap_or_else(|| FlowCursor::begin(self));
        if !cursor.is_of(self) || cursor.shards.len() != self.shards.len() {
            let text =
                "the cursor is of another fleet, or of this one before it was restored: begin anew, without a cursor";
            return Err(ControlError::Invalid(text.to_owned()));
        }
        let tables = self.shards.iter().zip(&cursor.shards);
        let mut heads: Vec<_> = tables.map(|(table, before)| table.newest_before(*before).peekable()).collect();
        let (mut flows, mut looked_at) = (Vec::new(), 0);
        loop {
            let last_us = heads.iter_mut().map(|head| head.peek().map(|(_, record)| record.last_us()));
            let last_us: Vec<Option<u64>> = last_us.collect();
            let newest = last_us.iter().enumerate().max_by_key(|(shard, at)| (**at, std::cmp::Reverse(*shard)));
            let Some((shard, Some(_))) = newest else { return Ok(FlowPage { flows, next: None }) };
            if flows.len() == limit || looked_at == SCAN_MAX {
                drop(heads);
                return Ok(FlowPage { flows, next: Some(cursor) });
            }
            let Some((id, record)) = heads[shard].next() else { continue };
            looked_at += 1;
            cursor.shards[shard] = (record.revision, id);
            if filter.lets_through(record) {
                flows.extend(self.found(shard as u32, id, record));
            }
        }
    }
}

impl FlowName {
    /// Of the text of a Community ID.
    ///
    /// # Errors
    /// If it is none.
    pub fn community(text: &str) -> Result<Self> {
        let id = id_of_community(text).ok_or_else(|| {
            ControlError::Invalid(format!("{text:?} is no Community ID: they read 1:LQU9qZlK+B5F3KDmev6m5PMibrg="))
        })?;
        Ok(Self::All(FlowId(id)))
    }

    /// Of two ends, in any order.
    ///
    /// # Errors
    /// If one is of IPv4 and the other of IPv6.
    pub fn key(protocol: u8, ends: [(IpAddr, u16); 2]) -> Result<Self> {
        let [(version, a), (other, b)] = ends.map(|(address, port)| Endpoint::new(address, port));
        if version != other {
            return Err(ControlError::Invalid("one end is of IPv4 and the other of IPv6".to_owned()));
        }
        Ok(Self::All(FlowId(FlowKey::of(version, protocol, a, b).0.id())))
    }
}

impl FlowFilter {
    /// The application protocol of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn app_named(name: &str) -> Result<App> {
        App::named(name).ok_or_else(|| {
            let names: Vec<&str> = App::ALL.iter().map(|app| app.name()).collect();
            ControlError::Invalid(format!("app {name:?}: {} are possible", names.join(", ")))
        })
    }

    /// The state of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn state_named(name: &str) -> Result<Standing> {
        let found = Standing::ALL.into_iter().find(|state| state.name() == name);
        found.ok_or_else(|| {
            ControlError::Invalid(format!(
                "state {name:?}: {} are possible",
                Standing::ALL.map(Standing::name).join(", ")
            ))
        })
    }

    /// A sniffer by its name, or its number in decimal.
    #[must_use]
    pub fn observer_named(text: &str) -> SnifferId {
        text.parse().map_or_else(|_| SnifferId::of(text), SnifferId)
    }

    /// Whether this flow is to be shown.
    #[must_use]
    pub fn lets_through(&self, record: &FlowRecord) -> bool {
        let key = &record.key;
        let ends = [&key.low, &key.high];
        let label = record.label.as_ref();
        self.protocol.is_none_or(|protocol| key.protocol == protocol)
            && self.port.is_none_or(|port| ends.iter().any(|end| end.port == port))
            && self.prefix.is_none_or(|(net, length)| ends.iter().any(|end| lies_in(end.ip(key.version), net, length)))
            && self.app.is_none_or(|app| label.is_some_and(|label| label.app == app))
            && self.state.is_none_or(|state| record.standing() == state)
            && self.observer.is_none_or(|one| record.observations().iter().any(|seen| seen.sniffer == one))
            && self.host.as_ref().is_none_or(|wanted| {
                label.and_then(|label| label.host.as_deref()).is_some_and(|host| is_or_below(host, wanted))
            })
    }
}

/// Whether `host` is `name`, or one below it.
fn is_or_below(host: &str, name: &str) -> bool {
    let start = host.len().wrapping_sub(name.len());
    let ends = host.get(start..).is_some_and(|end| end.eq_ignore_ascii_case(name));
    ends && (start == 0 || host.as_bytes().get(start.wrapping_sub(1)) == Some(&b'.'))
}

fn lies_in(address: IpAddr, net: IpAddr, length: u8) -> bool {
    let shifted = |bits: u128, width: u8| bits.checked_shr(u32::from(width.saturating_sub(length))).unwrap_or(0);
    match (address, net) {
        (IpAddr::V4(address), IpAddr::V4(net)) => {
            shifted(u32::from(address).into(), 32) == shifted(u32::from(net).into(), 32)
        }
        (IpAddr::V6(address), IpAddr::V6(net)) => shifted(address.into(), 128) == shifted(net.into(), 128),
        _ => false,
    }
}

impl FlowWatch {
    /// Follows from `position` on.
    ///
    /// # Errors
    /// If the position is of this fleet and names another number of shards than there are.
    pub fn new(tables: &FlowTables, filter: FlowFilter, position: Option<FlowPosition>) -> Result<Self> {
        let position = position.unwrap_or_else(|| FlowPosition::now(tables));
        if position.is_of(tables) && position.shards.len() != tables.shards.len() {
            return Err(ControlError::Invalid("the position names shards that this fleet does not have".to_owned()));
        }
        let mut watch = Self { position, filter, began: Vec::new(), turn: 0 };
        watch.begin(tables);
        Ok(watch)
    }

    fn begin(&mut self, tables: &FlowTables) {
        let shards = self.position.shards.iter().zip(&tables.shards);
        let nothing = |((at, _), table): (&(Revision, Option<u64>), &Arc<FlowTable>)| match at.0 {
            0 => table.applied(),
            _ => Revision(0),
        };
        self.began = shards.map(nothing).collect();
    }

    /// Up to where all was told.
    #[must_use]
    pub fn position(&self) -> &FlowPosition {
        &self.position
    }

    /// What is new, about `most` of it; nothing: there is no more.
    pub fn news(&mut self, tables: &FlowTables, most: usize) -> Vec<FlowNews> {
        let mut news = Vec::new();
        if !self.position.is_of(tables) {
            self.position = FlowPosition::start(tables);
            self.begin(tables);
            news.push(FlowNews::Reset);
        }
        for step in 0..tables.shards.len() {
            let shard = (self.turn + step) % tables.shards.len();
            let table = &tables.shards[shard];
            // Nothing is new, or the asker knows more than this instance.
            while self.position.shards[shard].0 < table.applied() && news.len() < most {
                let (revision, left) = self.position.shards[shard];
                let missed = match left {
                    _ if !table.has_forgotten_after(revision) => Some(0),
                    Some(left) => Some(table.missed_after(revision, left)),
                    None => None,
                };
                if missed != Some(0) {
                    news.push(FlowNews::Lagged { shard: shard as u32, revision: table.applied(), missed });
                }
                let changes = table.changes_after(revision, most);
                let gone = changes.iter().filter(|change| matches!(change, Change::Left(..))).count() as u64;
                let known = left.zip(missed).map(|(left, missed)| left.saturating_add(missed));
                let known = known.unwrap_or_else(|| table.left() - table.remembered_after(revision));
                // What was known comes from outside.
                let known = known.saturating_add(gone);
                // With the last of them everything up to here is told.
                let reached = match changes.last() {
                    Some(last) if changes.len() >= most => last.revision(),
                    _ => table.applied(),
                };
                self.position.shards[shard] = (reached, Some(known));
                for change in changes {
                    match change {
                        Change::Now(_, id) => {
                            let record = table.get(id).filter(|record| self.filter.lets_through(record));
                            let found = record.and_then(|record| tables.found(shard as u32, id, record));
                            news.extend(found.map(|found| FlowNews::Changed(Box::new(found))));
                        }
                        Change::Left(revision, _) if revision <= self.began[shard] => {}
                        Change::Left(revision, id) => news.push(FlowNews::Left { id, shard: shard as u32, revision }),
                    }
                }
            }
        }
        self.turn = self.turn.wrapping_add(1);
        news
    }
}

/// Writes labels and a verdict on a flow, if its record is still of that revision.
///
/// # Errors
/// `NotFound`: there is no such flow, or several. `Conflict`: it has changed. `Invalid`: too many labels, or too long ones.
pub async fn annotate<C: Control>(
    control: &C,
    name: &FlowName,
    revision: Revision,
    labels: Vec<(String, String)>,
    verdict: Option<Verdict>,
) -> Result<Applied> {
    let tables = control.flows(super::Consistency::Local).await?;
    if verdict.as_ref().is_some_and(|verdict| verdict.action.is_empty()) {
        return Err(ControlError::Invalid(
            "a verdict has an action: allow, drop, or whatever its readers go by".to_owned(),
        ));
    }
    // Checked here as well, so that what is refused in any case is not in the log.
    let words = labels.iter().flat_map(|(name, value)| [name.len(), value.len()]);
    let verdict_words = verdict.iter().flat_map(|verdict| [verdict.action.len(), verdict.source.len()]);
    if labels.len() > 2 * LABELS_MAX || words.chain(verdict_words).any(|length| length > LABEL_BYTES_MAX) {
        return Err(too_many());
    }
    let found = tables.get(name, 2);
    let [found] = found.as_slice() else {
        let text = match found.len() {
            0 => "there is no such flow".to_owned(),
            _ => "several flows have that key: name one by its id".to_owned(),
        };
        return Err(ControlError::NotFound(text));
    };
    let command = FlowCommand::Annotate { flow: found.id, revision, labels, verdict };
    match control.flow_report(found.shard, command.encode().into()).await? {
        FlowOutcome::Done(revision) => Ok(Applied { index: revision.0, epoch: flow::Epoch(0) }),
        FlowOutcome::Changed(at) => {
            Err(ControlError::Conflict(format!("the flow is at revision {at}, not {revision}")))
        }
        FlowOutcome::NoFlow => Err(ControlError::NotFound("there is no such flow any more".to_owned())),
        FlowOutcome::TooMany => Err(too_many()),
        other => Err(ControlError::Internal(format!("the log answered {other:?}"))),
    }
}

fn too_many() -> ControlError {
    ControlError::Invalid(format!(
        "a flow has {LABELS_MAX} labels at most, of {LABELS_BYTES_MAX} bytes together; a name, value or word of a verdict has 1 to \
         {LABEL_BYTES_MAX}"
    ))
}

/// Most flows that the names of one request may find.
pub const FOUND_MAX: usize = 10_000;

/// Most records that are looked at for one page.
pub const SCAN_MAX: usize = 200_000;
