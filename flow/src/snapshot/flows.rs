//! The table of a flow group as rows.

use std::io::{self, Read, Write};

use super::{
    FLOW_TABLE, SnapshotError,
    rows::{DepartureRow, FlowHead, FlowKind, FlowRow, SnifferRow},
    stream::{RowReader, RowWriter},
};
use crate::{
    flows::{
        DEPARTURES_MAX, Expiry, FlowCounters, FlowId, FlowLimits, FlowRecord, FlowTable, Reporter, SNIFFERS_MAX,
        SnifferId,
    },
    ids::{LogTime, Revision},
    plant::{self, Plant},
    wire::WireError,
};

impl FlowTable {
    /// Writes the table. Of equal tables the records may come in another order.
    ///
    /// # Errors
    /// Those of `out`, and if a row is larger than [`super::ROW_BYTES_MAX`].
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut writer = RowWriter::begin(out, FLOW_TABLE);
        let mut put = |row| writer.put(&FlowRow { row: Some(row) });
        let counted = self.counters;
        put(FlowKind::Head(FlowHead {
            applied: self.applied.0,
            time: self.time.0,
            forgotten: self.forgotten.0,
            left: self.left,
            begun: counted.begun,
            expired: counted.expired,
            evicted: counted.evicted,
            again: counted.again,
            unplaced: counted.unplaced,
        }))?;
        for (id, reporter) in self.sniffers.iter().filter(|_| !plant::on(Plant::SniffersNotInSnapshot)) {
            put(FlowKind::Sniffer(SnifferRow {
                sniffer: id.0,
                epoch: reporter.epoch,
                sequence: reporter.sequence,
                at: reporter.at.0,
                name: reporter.name.to_string(),
            }))?;
        }
        for ((revision, flow), ()) in &self.departures {
            put(FlowKind::Departure(DepartureRow { revision: revision.0, flow: flow.0 }))?;
        }
        for record in self.flows.values() {
            put(FlowKind::Flow(Box::new(record.as_ref().into())))?;
        }
        let rows = writer.rows();
        writer.end(&FlowRow { row: Some(FlowKind::End(rows)) })
    }

    /// Reads a table, with the expiry index that goes with it. `input` must end with the table.
    ///
    /// # Errors
    /// If it is not the whole snapshot of such a table in this version's format.
    pub fn read_from(input: &mut dyn Read, limits: FlowLimits) -> Result<(Self, Expiry), SnapshotError> {
        let mut reader = RowReader::begin(input, FLOW_TABLE)?;
        let head = match reader.next::<FlowRow>()?.row {
            Some(FlowKind::Head(head)) => head,
            _ => return Err(reader.bad(WireError::Field("head"))),
        };
        let mut table = Self::new(limits);
        table.applied = Revision(head.applied);
        table.time = LogTime(head.time);
        table.forgotten = Revision(head.forgotten);
        table.left = head.left;
        table.counters = FlowCounters {
            begun: head.begun,
            expired: head.expired,
            evicted: head.evicted,
            again: head.again,
            unplaced: head.unplaced,
        };
        let mut expiry = Expiry::new();
        let told = loop {
            match reader.next::<FlowRow>()?.row {
                Some(FlowKind::Sniffer(row)) => {
                    let id = SnifferId(row.sniffer);
                    reader.ordered(table.sniffers.get_max().is_none_or(|(last, _)| *last < id), "sniffers")?;
                    if table.sniffers.len() >= SNIFFERS_MAX {
                        return Err(SnapshotError::TooMany("sniffers"));
                    }
                    let reporter = Reporter {
                        name: row.name.into(),
                        epoch: row.epoch,
                        sequence: row.sequence,
                        at: LogTime(row.at),
                    };
                    table.sniffers.insert(id, reporter);
                }
                Some(FlowKind::Departure(row)) => {
                    let place = (Revision(row.revision), FlowId(row.flow));
                    reader.ordered(table.departures.get_max().is_none_or(|(last, ())| *last < place), "departures")?;
                    if table.departures.len() >= DEPARTURES_MAX {
                        return Err(SnapshotError::TooMany("departures"));
                    }
                    table.departures.insert(place, ());
                }
                Some(FlowKind::Flow(row)) => {
                    let record = FlowRecord::try_from(*row).map_err(|error| reader.bad(error))?;
                    let flow = record.id();
                    reader.ordered(table.get(flow).is_none() && record.revision <= table.applied, "a flow")?;
                    if table.len() as u64 >= limits.flows {
                        return Err(SnapshotError::TooMany("flows"));
                    }
                    table.put(flow, record, &mut expiry);
                }
                Some(FlowKind::End(told)) => break told,
                Some(FlowKind::Head(_)) | None => return Err(reader.bad(WireError::Field("row"))),
            }
        };
        reader.end(told)?;
        if table.left < table.departures.len() as u64 {
            return Err(SnapshotError::Contradiction("more flows left than it says"));
        }
        Ok((table, expiry))
    }
}
