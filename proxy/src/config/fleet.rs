//! Reads `[fleet]`: the instances and what they must hold alike.

use std::{collections::HashMap, path::PathBuf, time::Duration};

use super::{
    checked::{FleetConfig, Host, InstanceConfig, Limits, unique},
    error::{Notes, Wrong},
    raw::{Found, Section},
    tls, values,
};

/// Most instances that a file may list.
pub(super) const MAX_INSTANCES: usize = 15;

/// `[fleet]` as far as it could be read.
pub(super) struct ReadFleet {
    /// `None` if something is missing or wrong.
    pub config: Option<FleetConfig>,
    pub instances: Vec<ReadInstance>,
    pub lease_ms: Option<u64>,
}

/// `[[fleet.instance]]` as far as it could be read.
pub(super) struct ReadInstance {
    pub host: Option<Host>,
    pub ports: Vec<Found<u16>>,
    config: Option<InstanceConfig>,
}

pub(super) fn read(top: &mut Section<'_>, notes: &mut Notes<'_>) -> ReadFleet {
    let nothing = ReadFleet { config: None, instances: Vec::new(), lease_ms: None };
    let given = top.has("fleet");
    let Some(mut section) = top.table("fleet", notes) else {
        if !given {
            let remedy = "write [fleet] with a name, and [[fleet.instance]] for each instance";
            notes.add(top.span(), "fleet", Wrong::new("missing", remedy));
        }
        return nothing;
    };
    let name = section.required("name", "\"test\"", values::name, notes);
    let data_dir = section.or("data_dir", PathBuf::from("data"), values::directory, notes);
    let groups = section.or("groups", 16, |value| values::integer_u32(value, 1..=256), notes);
    let flow_groups = section.or("flow_groups", 4, |value| values::integer_u32(value, 0..=64), notes);
    let lease = section.optional("lease", Some(1_000), |value| values::duration(value, 100..=60_000), notes);
    let heartbeat = section.optional("heartbeat", Some(50), |value| values::duration(value, 10..=5_000), notes);
    let election_timeout =
        section.optional("election_timeout", Some(300), |value| values::duration(value, 50..=60_000), notes);
    let drain_timeout =
        section.or("drain_timeout", 30_000, |value| values::duration(value, 0..=values::YEAR_MS), notes);
    if let Some(heartbeat) = &heartbeat {
        check_several_heartbeats(heartbeat.value, &election_timeout, notes);
        check_several_heartbeats(heartbeat.value, &lease, notes);
    }
    let limits = read_limits(&mut section, notes);
    let tls = tls::read(&mut section, notes);
    let instances = read_instances(&mut section, notes);
    section.finish(notes);

    let lease_ms = lease.map(|lease| lease.value);
    let configs: Option<Vec<_>> = instances.iter().map(|instance| instance.config.clone()).collect();
    let config = || {
        Some(FleetConfig {
            name: name?.value,
            data_dir: data_dir?,
            instances: configs.filter(|instances| !instances.is_empty())?,
            groups: groups?,
            flow_groups: flow_groups?,
            lease: Duration::from_millis(lease_ms?),
            heartbeat: Duration::from_millis(heartbeat?.value),
            election_timeout: Duration::from_millis(election_timeout?.value),
            drain_timeout: Duration::from_millis(drain_timeout?),
            limits: limits?,
            tls: tls?,
        })
    };
    ReadFleet { config: config(), instances, lease_ms }
}

/// `other` has to see several heartbeats, or one that is late ends it.
fn check_several_heartbeats(heartbeat_ms: u64, other: &Option<Found<u64>>, notes: &mut Notes<'_>) {
    let Some(other) = other else { return };
    let least = heartbeat_ms * HEARTBEATS_MIN;
    if other.value < least {
        let (written, heartbeat) = (values::duration_text(other.value), values::duration_text(heartbeat_ms));
        let wrong = Wrong::new(
            format!("\"{written}\" is less than {HEARTBEATS_MIN} heartbeats of {heartbeat}"),
            format!("write \"{}\" or more, or a shorter heartbeat", values::duration_text(least)),
        );
        notes.add(&other.span, other.path.clone(), wrong);
    }
}

/// A lease and an election must outlast this many heartbeats.
const HEARTBEATS_MIN: u64 = 3;

fn read_limits(fleet: &mut Section<'_>, notes: &mut Notes<'_>) -> Option<Limits> {
    let defaults = Limits::default();
    let given = fleet.has("limits");
    let Some(mut section) = fleet.table("limits", notes) else {
        return (!given).then_some(defaults);
    };
    let max_pins =
        section.or("max_pins", defaults.max_pins, |value| values::integer(value, 1_000..=1_000_000_000), notes);
    let max_pending_choices = section.or("max_pending_choices", defaults.max_pending_choices, entries, notes);
    let cache_entries = section.or("cache_entries", defaults.cache_entries, entries, notes);
    let max_relays = section.or("max_relays", defaults.max_relays, |value| count(value, 0..=1_000_000), notes);
    let max_snapshot_rate = section.or(
        "max_snapshot_rate",
        defaults.max_snapshot_rate,
        |value| values::integer(value, 1_048_576..=1_000_000_000_000),
        notes,
    );
    let max_header_bytes =
        section.or("max_header_bytes", defaults.max_header_bytes, |value| count(value, 1_024..=1_048_576), notes);
    let max_headers = section.or("max_headers", defaults.max_headers, |value| count(value, 10..=1_000), notes);
    let max_h2_streams =
        section.or("max_h2_streams", defaults.max_h2_streams, |value| values::integer_u32(value, 1..=10_000), notes);
    let header_timeout = section.or("header_timeout", defaults.header_timeout, silence, notes);
    let first_request_timeout = section.or("first_request_timeout", defaults.first_request_timeout, silence, notes);
    let keepalive_timeout = section.or("keepalive_timeout", defaults.keepalive_timeout, silence, notes);
    let write_timeout = section.or("write_timeout", defaults.write_timeout, silence, notes);
    section.finish(notes);
    Some(Limits {
        max_pins: max_pins?,
        max_pending_choices: max_pending_choices?,
        cache_entries: cache_entries?,
        max_relays: max_relays?,
        max_snapshot_rate: max_snapshot_rate?,
        max_header_bytes: max_header_bytes?,
        max_headers: max_headers?,
        max_h2_streams: max_h2_streams?,
        header_timeout: header_timeout?,
        first_request_timeout: first_request_timeout?,
        keepalive_timeout: keepalive_timeout?,
        write_timeout: write_timeout?,
    })
}

fn count(value: &toml::de::DeValue<'_>, range: std::ops::RangeInclusive<u32>) -> Result<usize, Wrong> {
    values::integer_u32(value, range).map(|number| number as usize)
}

fn silence(value: &toml::de::DeValue<'_>) -> Result<Duration, Wrong> {
    values::duration(value, 100..=values::YEAR_MS).map(Duration::from_millis)
}

fn entries(value: &toml::de::DeValue<'_>) -> Result<usize, Wrong> {
    count(value, 100..=10_000_000)
}

fn read_instances(fleet: &mut Section<'_>, notes: &mut Notes<'_>) -> Vec<ReadInstance> {
    let Some(sections) = fleet.tables("instance", "label", notes) else { return Vec::new() };
    if sections.is_empty() {
        let wrong = Wrong::new("missing", "write [[fleet.instance]] for each instance");
        notes.add(fleet.span(), fleet.path_of("instance"), wrong);
    }
    if let Some(one_too_many) = sections.get(MAX_INSTANCES) {
        let wrong = Wrong::new(format!("{} instances", sections.len()), format!("list at most {MAX_INSTANCES}"));
        notes.add(one_too_many.span(), fleet.path_of("instance"), wrong);
    }
    let mut labels = HashMap::new();
    sections.into_iter().map(|section| read_instance(section, &mut labels, notes)).collect()
}

fn read_instance(
    mut section: Section<'_>,
    labels: &mut HashMap<String, (String, std::ops::Range<usize>)>,
    notes: &mut Notes<'_>,
) -> ReadInstance {
    let label = section.required("label", "\"a\"", values::name, notes);
    if let Some(label) = &label {
        unique(labels, label, "give each instance a label of its own", notes);
    }
    let host = section.required("address", "\"127.0.0.1\"", values::host, notes).map(|found| found.value);
    let grpc = section.required("grpc", "35001", values::port, notes);
    let rest = section.required("rest", "8001", values::port, notes);
    let metrics = section.required("metrics", "2112", values::port, notes);
    section.finish(notes);
    let config = || {
        Some(InstanceConfig {
            label: label.as_ref()?.value.clone(),
            address: host.clone()?,
            grpc: grpc.as_ref()?.value,
            rest: rest.as_ref()?.value,
            metrics: metrics.as_ref()?.value,
        })
    };
    let config = config();
    ReadInstance { host, ports: [grpc, rest, metrics].into_iter().flatten().collect(), config }
}
