//! `rocinante flow`: the table of flows, read, followed and written on.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{
    Console, Failure, PAGE_ROWS, Result,
    args::{Freshness, Reach},
    client::{Client, path, query},
    consistency,
    flow_args::{FilterArgs, FlowArg, FlowCommand},
    follow::{Event, Follower},
    operate::time_text,
    table::{Column, Table, numbers, printable, words},
};
use crate::rest::{
    flow_json::{FlowJson, FlowReadJson, FlowsJson, FlowsReadJson, LaggedJson, LeftJson},
    json::AppliedJson,
};

pub(super) fn perform(console: &mut Console<'_>, command: FlowCommand) -> Result<()> {
    match command {
        FlowCommand::List { filter, limit, all, reading, reach } => {
            let limit = if all { u64::MAX } else { limit };
            list(console, &filter, limit, reading.consistency, &reach)
        }
        FlowCommand::Get { flow, reading, reach } => {
            let answer =
                console.client(&reach)?.get(&(path_of(&flow) + &query(&[consistency(reading.consistency)])))?;
            match flow {
                FlowArg::Id { .. } => console.show(&reach, &answer, |read: FlowReadJson| known(&read.flow)),
                FlowArg::Community(_) => console.show(&reach, &answer, |read: FlowsReadJson| {
                    read.flows.iter().map(known).collect::<Vec<_>>().join("\n")
                }),
            }
        }
        FlowCommand::Watch { filter, after, count, reach } => watch(console, &filter, after, count, &reach),
        FlowCommand::Label { flow, labels, if_revision, reach } => {
            let labels: serde_json::Map<String, Value> =
                labels.into_iter().map(|(name, value)| (name, value.into())).collect();
            let body = |revision| json!({ "if_revision": revision, "labels": labels });
            write(console, &reach, &flow, if_revision, "labels", body)
        }
        FlowCommand::Verdict { flow, action, source, if_revision, reach } => {
            let body = |revision| json!({ "if_revision": revision, "action": action, "source": source });
            write(console, &reach, &flow, if_revision, "verdict", body)
        }
    }
}

/// Page after page up to `limit` flows. JSON is written as it comes: a table has a million flows.
fn list(console: &mut Console<'_>, filter: &FilterArgs, limit: u64, fresh: Freshness, reach: &Reach) -> Result<()> {
    let client = console.client(reach)?;
    let mut table = Table::new(FLOWS);
    let (mut count, mut cursor, mut begun) = (0, None, false);
    loop {
        let rows = (limit - count).min(PAGE_ROWS).to_string();
        let mut asked = filters(filter);
        asked.extend([("limit", Some(rows)), ("cursor", cursor), consistency(fresh)]);
        let page: FlowsJson = client.get(&format!("/flows{}", query(&asked)))?.read()?;
        if reach.json && !begun {
            write!(console.out, "{{\"flows\":[")?;
        }
        begun = true;
        for flow in &page.flows {
            match reach.json {
                true => {
                    let comma = if count == 0 { "" } else { "," };
                    write!(console.out, "{comma}{}", text(flow)?)?;
                }
                false => table.row(row(flow)),
            }
            count += 1;
        }
        cursor = page.next;
        if cursor.is_none() || count >= limit {
            break;
        }
    }
    let more = cursor.is_some();
    match reach.json {
        true => writeln!(console.out, "],\"more\":{more}}}")?,
        false => write!(console.out, "{table}")?,
    }
    console.warn_of_more(more)
}

fn watch(
    console: &mut Console<'_>,
    filter: &FilterArgs,
    after: String,
    count: Option<u64>,
    reach: &Reach,
) -> Result<()> {
    let client = console.client(reach)?;
    let asked = filters(filter);
    // From a position on, flows that were shown before it may leave.
    let fresh = ["now", "start"].contains(&after.as_str());
    let mut shown = Shown::new(fresh && asked.iter().any(|(_, value)| value.is_some()));
    let mut follower = Follower::new(&client, "/flows/watch", asked, after);
    let mut left = count.unwrap_or(u64::MAX);
    while left > 0 {
        let event = follower.next()?;
        if !shown.lets_through(&event)? {
            continue;
        }
        left -= 1;
        let line = if reach.json { json_line(&event)? } else { line(&event)? };
        writeln!(console.out, "{line}")?;
        console.out.flush()?;
    }
    Ok(())
}

/// The flows that a watch with a filter has shown: an instance knows only the ids of those that left, and tells them all.
struct Shown {
    /// None: all are told of.
    ids: Option<HashSet<u64>>,
}

impl Shown {
    fn new(filtered: bool) -> Self {
        Self { ids: filtered.then(HashSet::new) }
    }

    /// Whether an event is of interest. With more flows than are remembered, all that leave are told of from then on.
    fn lets_through(&mut self, event: &Event) -> Result<bool> {
        let Some(ids) = &mut self.ids else { return Ok(true) };
        match event.kind.as_str() {
            "changed" => {
                let flow: FlowJson = read(event)?;
                ids.insert(number(flow.id7.as_ref().unwrap_or(&flow.id5))?);
                if ids.len() > SHOWN_MAX {
                    self.ids = None;
                }
                Ok(true)
            }
            "left" => Ok(ids.remove(&number(&read::<LeftJson>(event)?.id)?)),
            "reset" => {
                ids.clear();
                Ok(true)
            }
            _ => Ok(true),
        }
    }
}

fn number(id: &str) -> Result<u64> {
    id.parse().map_err(|_| Failure::reason(format!("an event of a flow {id:?}, which is no id")))
}

/// An event as scripts want it: `event`, `data` as it came and, where there is one, `position`.
fn json_line(event: &Event) -> Result<String> {
    let mut line = json!({ "event": event.kind, "data": read::<Value>(event)? });
    if let Some(position) = &event.position {
        line["position"] = json!(position);
    }
    text(&line)
}

/// An event as people want it.
fn line(event: &Event) -> Result<String> {
    let line = match event.kind.as_str() {
        "changed" => {
            let flow: FlowJson = read(event)?;
            let [protocol, from, to, app, host, backend, packets, bytes, state, _, id] = row(&flow);
            format!(
                "CHANGED {protocol} {from} > {to} {app} {host} {backend} {packets} packets {bytes} bytes {state} {id}"
            )
        }
        "left" => {
            let LeftJson { id, shard, .. } = read(event)?;
            format!("LEFT {id} (shard {shard})")
        }
        "reset" => {
            "RESET the position is of another fleet, or of this one before it was restored: what was told before \
                    counts no more, all there is follows"
                .to_owned()
        }
        "lagged" => {
            let LaggedJson { shard, missed, .. } = read(event)?;
            let missed = missed.map_or_else(|| "an unknown number of".to_owned(), |missed| missed.to_string());
            format!("LAGGED {missed} flows left that are not told of any more (shard {shard})")
        }
        other => format!("{} {}", other.to_uppercase(), event.data),
    };
    Ok(printable(&line))
}

/// Writes on a flow. Where the caller names no revision, it is written whatever the revision is: a flow that packets change
/// all the time may need some tries.
fn write(
    console: &mut Console<'_>,
    reach: &Reach,
    flow: &FlowArg,
    if_revision: Option<u64>,
    what: &str,
    body: impl Fn(u64) -> Value,
) -> Result<()> {
    let client = console.client(reach)?;
    let mut left = TRIES;
    loop {
        left -= 1;
        let (name, revision) = match (flow, if_revision) {
            (FlowArg::Id { .. }, Some(revision)) => (flow.clone(), revision),
            _ => {
                let found = the_flow(&client, flow)?;
                (name_of(&found), if_revision.unwrap_or(found.revision))
            }
        };
        let written = client.put(&format!("{}/{what}", path_of(&name)), body(revision).to_string().as_bytes());
        match written {
            Err(Failure::Refused(error)) if error.reason == "conflict" && if_revision.is_none() && left > 0 => {}
            written => {
                return console.show(reach, &written?, |applied: AppliedJson| {
                    format!("wrote {what} on {} (revision {})\n", id_text(&name), applied.index)
                });
            }
        }
    }
}

/// The one flow of a name.
fn the_flow(client: &Client, flow: &FlowArg) -> Result<FlowJson> {
    let answer = client.get(&(path_of(flow) + &query(&[consistency(Freshness::Linearizable)])))?;
    match flow {
        FlowArg::Id { .. } => Ok(answer.read::<FlowReadJson>()?.flow),
        FlowArg::Community(text) => {
            let mut flows = answer.read::<FlowsReadJson>()?.flows;
            match (flows.pop(), flows.len()) {
                (Some(flow), 0) => Ok(flow),
                (_, others) => Err(Failure::reason(format!("{} flows have {text}: name one by its id", others + 1))),
            }
        }
    }
}

fn path_of(flow: &FlowArg) -> String {
    match flow {
        FlowArg::Id { size, id } => path(&["flows", size, id]),
        FlowArg::Community(text) => path(&["flows", "community", text]),
    }
}

fn name_of(flow: &FlowJson) -> FlowArg {
    match &flow.id7 {
        Some(id) => FlowArg::Id { size: "7", id: id.clone() },
        None => FlowArg::Id { size: "5", id: flow.id5.clone() },
    }
}

fn id_text(name: &FlowArg) -> String {
    match name {
        FlowArg::Id { size, id } => format!("{size}/{id}"),
        FlowArg::Community(text) => text.clone(),
    }
}

fn filters(filter: &FilterArgs) -> Vec<(&'static str, Option<String>)> {
    let FilterArgs { prefix, port, protocol, app, host, state, observer } = filter.clone();
    let port = port.map(|port| port.to_string());
    vec![
        ("prefix", prefix),
        ("port", port),
        ("protocol", protocol),
        ("app", app),
        ("host", host),
        ("state", state),
        ("observer", observer),
    ]
}

fn read<T: DeserializeOwned>(event: &Event) -> Result<T> {
    let wrong = |error| Failure::reason(format!("an event {:?} that this version cannot read: {error}", event.kind));
    serde_json::from_str(&event.data).map_err(wrong)
}

fn text(value: &impl serde::Serialize) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Failure::reason(error.to_string()))
}

/// A flow as a row of a table.
fn row(flow: &FlowJson) -> [String; FLOWS.len()] {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let backends: Vec<String> =
        flow.backends.iter().map(|backend| format!("{}/{}", backend.pool, backend.server)).collect();
    [
        flow.protocol_name.clone(),
        end(flow.src, flow.sport),
        end(flow.dst, flow.dport),
        or_none(&flow.app),
        or_none(&flow.host),
        if backends.is_empty() { "-".into() } else { backends.join(" ") },
        flow.packets_fwd.saturating_add(flow.packets_rev).to_string(),
        flow.bytes_fwd.saturating_add(flow.bytes_rev).to_string(),
        flow.state.clone(),
        age(flow.first_us),
        id_text(&name_of(flow)),
    ]
}

fn end(address: IpAddr, port: u16) -> String {
    SocketAddr::new(address, port).to_string()
}

/// How long ago the first packet was, by the clocks of its sniffer and of this machine.
fn age(first_us: u64) -> String {
    let first = UNIX_EPOCH + Duration::from_micros(first_us);
    span(SystemTime::now().duration_since(first).unwrap_or_default())
}

/// Whole seconds, in the two largest units that it has.
fn span(time: Duration) -> String {
    let text = humantime::format_duration(Duration::from_secs(time.as_secs())).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// All that is known of a flow.
fn known(flow: &FlowJson) -> String {
    let mut lines = vec![
        format!("flow      {}  {}", id_text(&name_of(flow)), flow.community_id),
        format!(
            "between   {} {} > {}, {}",
            flow.protocol_name,
            end(flow.src, flow.sport),
            end(flow.dst, flow.dport),
            flow.state
        ),
    ];
    let words = |pairs: &[(&str, Option<String>)]| -> String {
        let given = pairs.iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?)));
        given.collect::<Vec<_>>().join(", ")
    };
    if let Some(app) = &flow.app {
        let more = words(&[
            ("by its", flow.app_confidence.clone()),
            ("host", flow.host.clone()),
            ("alpn", flow.alpn.clone()),
            ("ja4", flow.ja4.clone()),
            ("version", flow.quic_version.map(|version| format!("{version:#x}"))),
        ]);
        lines.push(format!("app       {app}, {more}"));
    }
    let seventh = words(&[
        ("tos", flow.tos.map(|tos| tos.to_string())),
        ("ingress", flow.ingress.map(|ingress| ingress.to_string())),
        ("vlan", flow.vlan.map(|vlan| vlan.to_string())),
    ]);
    if !seventh.is_empty() {
        lines.push(format!("seen with {seventh}"));
    }
    lines.push(format!("sent      {} packets, {} bytes", flow.packets_fwd, flow.bytes_fwd));
    lines.push(format!("returned  {} packets, {} bytes", flow.packets_rev, flow.bytes_rev));
    lines.push(format!("from      {} to {}", time_text(flow.first_us / 1_000), time_text(flow.last_us / 1_000)));
    for backend in &flow.backends {
        let client = backend.client.map_or_else(|| "the fleet itself".to_owned(), |client| client.to_string());
        lines.push(format!("backend   {client} at {} {} of pool {}", backend.server, backend.address, backend.pool));
    }
    for (name, value) in &flow.labels {
        lines.push(format!("label     {name}={value}"));
    }
    if let Some(verdict) = &flow.verdict {
        let age = span(Duration::from_millis(verdict.age_ms));
        lines.push(format!("verdict   {}, by {}, {age} ago", verdict.action, verdict.source));
    }
    // What is left is never overstated.
    let left = span(Duration::from_millis(flow.expires_in_ms));
    lines.push(format!("revision  {} in shard {}, leaves in {left}", flow.revision, flow.shard));
    let mut table = Table::new(OBSERVERS);
    for seen in &flow.observers {
        table.row([
            if seen.name.is_empty() { seen.sniffer.clone() } else { seen.name.clone() },
            seen.epoch.clone(),
            seen.packets_fwd.to_string(),
            seen.packets_rev.to_string(),
            seen.bytes_fwd.to_string(),
            seen.bytes_rev.to_string(),
            seen.state.clone(),
            seen.end.clone().unwrap_or_else(|| "-".into()),
            seen.sample.unwrap_or(1).to_string(),
        ]);
    }
    let lines: Vec<String> = lines.iter().map(|line| printable(line)).collect();
    format!("{}\n\n{table}", lines.join("\n"))
}

const FLOWS: &[Column; 11] = &[
    words("PROTO"),
    words("SRC"),
    words("DST"),
    words("APP"),
    words("HOST"),
    words("BACKEND"),
    numbers("PACKETS"),
    numbers("BYTES"),
    words("STATE"),
    words("AGE"),
    words("ID"),
];

const OBSERVERS: &[Column] = &[
    words("SNIFFER"),
    words("EPOCH"),
    numbers("SENT"),
    numbers("RETURNED"),
    numbers("BYTES-SENT"),
    numbers("BYTES-RETURNED"),
    words("STATE"),
    words("END"),
    numbers("SAMPLE"),
];

/// Most flows of which a watch with a filter remembers that it showed them: 16 MiB.
const SHOWN_MAX: usize = 1 << 20;

/// How often a flow that has changed meanwhile is read and written again.
const TRIES: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_two_units_at_most() {
        let texts =
            [0, 59, 3_600, 93_784, 100 * 86_400].map(|seconds| span(Duration::from_millis(seconds * 1_000 + 999)));
        assert_eq!(texts, ["0s", "59s", "1h", "1day 2h", "3months 8days"]);
    }
}
