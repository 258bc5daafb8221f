//! `rocinante tune` and `rocinante member events`.

use std::time::{Duration, UNIX_EPOCH};

use super::{
    Console, Failure, Result,
    args::{Reach, TuneArgs},
    table::{Column, Table, numbers, printable, words},
};
use crate::rest::operate::{DetectorJson, EventsJson, TuningJson, TuningReadJson};

pub(super) fn tune(console: &mut Console<'_>, args: &TuneArgs) -> Result<()> {
    let client = console.client(&args.reach)?;
    if args.reset {
        let answer = client.delete("/tuning")?;
        return console.applied(&args.reach, &answer, "every instance goes by its configuration");
    }
    let changes = args.heartbeat.is_some()
        || args.election.is_some()
        || args.detector.is_some()
        || args.spread.is_some()
        || args.shuffle.is_some();
    if !changes {
        let answer = client.get("/tuning")?;
        let asked = answer.endpoint.clone();
        return console.show(&args.reach, &answer, |read: TuningReadJson| match read.tuning {
            Some(tuning) => shown(&tuning),
            None => format!(
                "nothing is committed: every instance goes by its configuration\n{asked}: {}",
                shown(&read.effective)
            ),
        });
    }
    // What is not named stays as it is: as committed by whomever, or as the one that answers is configured.
    let mut tuning = client.get("/tuning?consistency=linearizable")?.read::<TuningReadJson>()?.effective;
    tuning.heartbeat_ms = args.heartbeat.unwrap_or(tuning.heartbeat_ms);
    tuning.election_ms = args.election.unwrap_or(tuning.election_ms);
    tuning.detector = args.detector.clone().unwrap_or(tuning.detector);
    tuning.spread = args.spread.unwrap_or(tuning.spread);
    tuning.shuffle_ms = args.shuffle.unwrap_or(tuning.shuffle_ms);
    let body = serde_json::to_string(&tuning).map_err(|error| Failure::reason(error.to_string()))?;
    let answer = client.post("/tuning", body.as_bytes())?;
    console.applied(&args.reach, &answer, shown(&tuning).trim_end())
}

fn shown(tuning: &TuningJson) -> String {
    let detector = match tuning.detector {
        DetectorJson::Phi(phi) => format!("phi:{phi}"),
        DetectorJson::FixedMs(ms) => format!("fixed:{ms}"),
    };
    let shuffle = match tuning.shuffle_ms {
        0 => "never".to_owned(),
        ms => format!("{ms} ms"),
    };
    format!(
        "heartbeat {} ms, election {} ms, detector {detector}, spread {}, shuffle {shuffle}\n",
        tuning.heartbeat_ms, tuning.election_ms, tuning.spread
    )
}

pub(super) fn events(console: &mut Console<'_>, reach: &Reach) -> Result<()> {
    let answer = console.client(reach)?.get("/events?limit=1000")?;
    console.show(reach, &answer, |read: EventsJson| {
        let mut table = Table::new(EVENTS);
        for event in read.events {
            table.row([event.number.to_string(), time_text(event.unix_ms), event.kind, printable(&event.text)]);
        }
        table.to_string()
    })
}

/// A time as 2026-01-31T12:00:00.123Z.
pub(super) fn time_text(unix_ms: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(unix_ms);
    humantime::format_rfc3339_millis(time).to_string()
}

const EVENTS: &[Column] = &[numbers("NUMBER"), words("TIME"), words("KIND"), words("WHAT")];
