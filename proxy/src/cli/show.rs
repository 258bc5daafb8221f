//! What people are shown of an instance's answers.

use std::time::Duration;

use super::table::{Column, Table, numbers, printable, words};
use crate::rest::{
    json::{GroupJson, KvJson, MemberJson, PinJson, StatusJson, VipJson},
    pool_json::{PoolJson, ServerJson},
};

/// `rocinante status`
pub fn status(status: &StatusJson) -> String {
    let uuid = status.fleet.uuid.as_deref().unwrap_or("not born yet");
    let ready = if status.ready { "ready" } else { "not ready" };
    let head = [
        format!("fleet     {} ({uuid})", status.fleet.name),
        format!("instance  {}, {} in term {}, {ready}", status.instance, status.role, status.term),
        format!("leader    {}", status.leader.as_deref().unwrap_or("none known")),
        format!("epoch     {}, version {}", status.epoch, status.version),
    ];
    let vip = status.vip.iter().map(vip);
    let reasons = status.reasons.iter().map(|reason| format!("not ready {reason}"));
    let head: Vec<String> = head.into_iter().chain(vip).chain(reasons).map(|line| printable(&line)).collect();
    let mut shown = head.join("\n");
    shown.push_str("\n\n");
    shown.push_str(&members(&status.members, status.leader.as_deref()));
    shown.push('\n');
    shown.push_str(&groups(&status.groups));
    shown.push('\n');
    shown.push_str(&pools(&status.pools));
    shown
}

/// How the VIPs stand, in one line.
fn vip(vip: &VipJson) -> String {
    let word = match vip.announced {
        Some(true) => "announced",
        Some(false) => "withdrawn",
        None => "unknown, nobody acknowledged anything",
    };
    let vips: Vec<String> = vip
        .vips
        .iter()
        .map(|vip| match &vip.problem {
            Some(problem) => format!("{} ({problem})", vip.address),
            None => vip.address.clone(),
        })
        .collect();
    let reasons: &[String] = if vip.wanted { &[] } else { &vip.reasons };
    let because = reasons.iter().chain(&vip.error).map(|reason| format!("; {reason}"));
    format!("vips      {word}: {}{}", vips.join(", "), because.collect::<String>())
}

/// `rocinante member list`
pub fn members(members: &[MemberJson], leader: Option<&str>) -> String {
    let mut table = Table::new(MEMBERS);
    for member in members {
        let role = match (member.voter, leader == Some(member.label.as_str())) {
            (_, true) => "leader",
            (true, false) => "voter",
            (false, false) => "learner",
        };
        table.row([
            member.label.clone(),
            member.id.to_string(),
            role.into(),
            member.address.clone(),
            member.grpc.to_string(),
            member.rest.to_string(),
            member.metrics.to_string(),
            if member.reachable { "yes".into() } else { "no".into() },
            member.incarnation.clone().unwrap_or_else(|| "-".into()),
        ]);
    }
    table.to_string()
}

/// `rocinante server list`
pub fn pools(pools: &[PoolJson]) -> String {
    let mut table = Table::new(SERVERS);
    for pool in pools {
        for server in &pool.servers {
            table.row(server_row(&pool.name, server));
        }
        if pool.servers.is_empty() {
            let mut row = [const { String::new() }; SERVERS.len()];
            row[0].clone_from(&pool.name);
            row[1] = "(none)".into();
            table.row(row);
        }
    }
    table.to_string()
}

/// `rocinante pin list`
pub fn pins(pins: &[PinJson]) -> String {
    let mut table = Table::new(PINS);
    for pin in pins {
        table.row([
            pin.client.to_string(),
            pin.server.clone(),
            pin.address.clone(),
            pin.state.clone(),
            // Whole seconds: what is left is never overstated.
            humantime::format_duration(Duration::from_secs(pin.expires_in_ms / 1_000)).to_string(),
            pin.epoch.to_string(),
            pin.revision.to_string(),
        ]);
    }
    table.to_string()
}

/// `rocinante kv list`
pub fn keys(items: &[KvJson]) -> String {
    let mut table = Table::new(KEYS);
    for item in items {
        table.row([item.key.clone(), item.revision.to_string(), value(item)]);
    }
    table.to_string()
}

/// A value; one that is no text in hexadecimal.
pub fn value(item: &KvJson) -> String {
    match (&item.value, &item.value_hex) {
        (Some(text), _) => text.clone(),
        (None, Some(hex)) => format!("0x{hex}"),
        (None, None) => String::new(),
    }
}

fn groups(groups: &[GroupJson]) -> String {
    let mut table = Table::new(GROUPS);
    for group in groups {
        let mut tables = String::new();
        for each in &group.tables {
            let gap = if tables.is_empty() { "" } else { ", " };
            tables.push_str(&format!("{gap}{} {} {}", each.name, each.rows, each.digest));
        }
        table.row([
            group.group.to_string(),
            group.role.clone(),
            group.term.to_string(),
            group.leader.clone().unwrap_or_else(|| "-".into()),
            group.last_index.to_string(),
            group.committed_index.to_string(),
            group.applied_index.to_string(),
            group.lease_ms.map_or_else(|| "none".into(), |lease| format!("{lease} ms")),
            tables,
        ]);
    }
    table.to_string()
}

fn server_row(pool: &str, server: &ServerJson) -> [String; 8] {
    let votes = server.votes.iter().flatten().map(|(instance, view)| format!("{instance}={view}"));
    [
        pool.to_owned(),
        server.name.clone(),
        std::net::SocketAddr::new(server.address, server.port).to_string(),
        server.weight.to_string(),
        server.state.clone(),
        server.verdict.clone().unwrap_or_else(|| "-".into()),
        votes.collect::<Vec<_>>().join(" "),
        server.pins.map_or_else(|| "-".into(), |pins| pins.to_string()),
    ]
}

const MEMBERS: &[Column] = &[
    words("INSTANCE"),
    numbers("ID"),
    words("ROLE"),
    words("ADDRESS"),
    numbers("GRPC"),
    numbers("REST"),
    numbers("METRICS"),
    words("REACHABLE"),
    words("INCARNATION"),
];

const GROUPS: &[Column] = &[
    numbers("GROUP"),
    words("ROLE"),
    numbers("TERM"),
    words("LEADER"),
    numbers("LAST"),
    numbers("COMMITTED"),
    numbers("APPLIED"),
    numbers("LEASE"),
    words("TABLES"),
];

const SERVERS: &[Column] = &[
    words("POOL"),
    words("SERVER"),
    words("ADDRESS"),
    numbers("WEIGHT"),
    words("STATE"),
    words("VERDICT"),
    words("VOTES"),
    numbers("PINS"),
];

const PINS: &[Column] = &[
    words("CLIENT"),
    words("SERVER"),
    words("ADDRESS"),
    words("STATE"),
    numbers("EXPIRES IN"),
    numbers("EPOCH"),
    numbers("REVISION"),
];

const KEYS: &[Column] = &[words("KEY"), numbers("REVISION"), words("VALUE")];
