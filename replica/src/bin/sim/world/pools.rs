//! The pools and servers of simulated fleets.

use super::*;

pub(super) fn server(number: u64, shift: u16) -> ServerSpec {
    ServerSpec {
        name: format!("s{number}"),
        address: [192, 0, 2, number as u8].into(),
        port: 80 + shift,
        weight: 100,
        state: ServerState::Enabled,
    }
}

/// The pools that a simulated fleet is born with, one for each policy.
pub fn pools() -> Vec<PoolSpec> {
    let balances = [Balance::SourceHash, Balance::RoundRobin, Balance::LeastConnections];
    POOLS
        .iter()
        .zip(balances)
        .enumerate()
        .map(|(number, (name, balance))| PoolSpec {
            name: (*name).to_owned(),
            bind: Bind::Own(9000 + number as u16),
            protocol: Protocol::Tcp,
            balance,
            commit: Commit::FirstContact,
            pin_ttl_ms: TTL_MS,
            on_isolation: OnIsolation::Refuse,
            decide_timeout_ms: 1000,
            retry_for_ms: 1000,
            connect_timeout_ms: 1000,
            idle_timeout_ms: 60_000,
            max_connections: 1000,
            send_proxy: false,
            transparent: false,
            health: HealthSpec { kind: HealthKind::Tcp, interval_ms: 300, timeout_ms: 100, rise: 2, fall: 2 },
            servers: (1..=4).map(|number| server(number, 0)).collect(),
        })
        .collect()
}
