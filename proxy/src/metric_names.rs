//! All metric names of an instance, with their meaning: `rocinante_<noun>_<unit>`.

// The replica.

/// Elections that this instance started.
pub const ELECTIONS_TOTAL: &str = "rocinante_elections_total";
/// Append messages sent to peers.
pub const APPENDS_SENT_TOTAL: &str = "rocinante_appends_sent_total";
/// Append messages received from peers.
pub const APPENDS_RECEIVED_TOTAL: &str = "rocinante_appends_received_total";
/// Vote requests sent to peers.
pub const VOTES_SENT_TOTAL: &str = "rocinante_votes_sent_total";
/// Vote requests received from peers.
pub const VOTES_RECEIVED_TOTAL: &str = "rocinante_votes_received_total";
/// Entries that this instance submitted to the log.
pub const ENTRIES_SUBMITTED_TOTAL: &str = "rocinante_entries_submitted_total";
/// Entries that this instance saw committed.
pub const ENTRIES_COMMITTED_TOTAL: &str = "rocinante_entries_committed_total";
/// Snapshots taken of the tables.
pub const SNAPSHOTS_TAKEN_TOTAL: &str = "rocinante_snapshots_taken_total";
/// Snapshots installed from a leader.
pub const SNAPSHOTS_INSTALLED_TOTAL: &str = "rocinante_snapshots_installed_total";
/// Peers that fell silent, by the failure detector's judgement.
pub const SUSPICIONS_TOTAL: &str = "rocinante_suspicions_total";
/// Leaderships that this instance handed over to spread them, or to shuffle them.
pub const LEADERS_MOVED_TOTAL: &str = "rocinante_leaders_moved_total";
/// Entries of the log read back from disk for followers that were behind.
pub const LOG_ENTRIES_READ_TOTAL: &str = "rocinante_log_entries_read_total";
/// Messages of peers that were dropped: malformed, or too many.
pub const MESSAGES_DROPPED_TOTAL: &str = "rocinante_messages_dropped_total";
/// 1 for the role that the instance has; by group and role.
pub const GROUP_ROLE: &str = "rocinante_group_role";
/// The term; by group.
pub const GROUP_TERM: &str = "rocinante_group_term";
/// The last index in the log; by group.
pub const LAST_INDEX: &str = "rocinante_last_index";
/// The last index committed; by group.
pub const COMMITTED_INDEX: &str = "rocinante_committed_index";
/// The last index applied; by group.
pub const APPLIED_INDEX: &str = "rocinante_applied_index";
/// How long the lease still holds, 0 without one; by group.
pub const LEASE_SECONDS: &str = "rocinante_lease_seconds";
/// Rows of a table; by group and table.
pub const TABLE_ROWS: &str = "rocinante_table_rows";
/// The low 52 bits of a table's digest, equal on all instances at equal applied index; by group and table.
pub const TABLE_DIGEST: &str = "rocinante_table_digest";
/// The committed version of pools and verdicts.
pub const EPOCH: &str = "rocinante_epoch";
/// 1 while the instance serves.
pub const READY: &str = "rocinante_ready";
/// 1 while the instance hears from a member of the fleet; by peer.
pub const PEER_REACHABLE: &str = "rocinante_peer_reachable";
/// 1 while the disk has no room for the log: nothing is acknowledged.
pub const DISK_FULL: &str = "rocinante_disk_full";
/// Rounds stored in the log.
pub const LOG_ROUNDS_TOTAL: &str = "rocinante_log_rounds_total";
/// Rounds that were synced to the disk before they were acknowledged.
pub const LOG_SYNCS_TOTAL: &str = "rocinante_log_syncs_total";
/// Segment files of the log.
pub const LOG_SEGMENTS: &str = "rocinante_log_segments";
/// Bytes written in the segments that are left.
pub const LOG_BYTES: &str = "rocinante_log_bytes";
/// What the links between instances and the port for peers and gRPC count; by event.
pub const LINK_EVENTS_TOTAL: &str = "rocinante_link_events_total";
/// Connections to the REST or metrics port that were not served to their end; by port and reason.
pub const PORT_CONNECTIONS_FAILED_TOTAL: &str = "rocinante_port_connections_failed_total";
/// Health checks that this instance could not make for want of ports, descriptors or memory; they are no votes.
pub const CHECKS_NOT_MADE_TOTAL: &str = "rocinante_checks_not_made_total";
/// Look-ups of members' names that failed.
pub const NAME_LOOKUPS_FAILED_TOTAL: &str = "rocinante_name_lookups_failed_total";
/// When this instance's certificate, or the authority behind it, expires: seconds since 1970. Only with `[fleet.tls]`.
pub const CERTIFICATE_EXPIRY_SECONDS: &str = "rocinante_certificate_expiry_seconds";
/// New certificates that were not good and not taken. Only with `[fleet.tls]`.
pub const CERTIFICATE_RELOADS_FAILED_TOTAL: &str = "rocinante_certificate_reloads_failed_total";
/// 1 while the VIPs are announced, as was acknowledged. Only with `[vip]`.
pub const VIP_ANNOUNCED: &str = "rocinante_vip_announced";
/// VIPs that cannot be served here: on no interface, or without a listener. Only with `[vip]`.
pub const VIP_MISSING: &str = "rocinante_vip_missing";
/// Announcements and withdrawals that were carried out. Only with `[vip]`.
pub const VIP_CHANGES_TOTAL: &str = "rocinante_vip_changes_total";
/// Announcements and withdrawals that failed, and silences of this instance. Only with `[vip]`.
pub const VIP_ERRORS_TOTAL: &str = "rocinante_vip_errors_total";
/// Keepers that ended, or could not be started, before the instance ended. Only with `[vip]`.
pub const VIP_KEEPER_RESTARTS_TOTAL: &str = "rocinante_vip_keeper_restarts_total";

// Flows.

/// Flows that began in the table of flows; by shard, the same on all instances.
pub const FLOWS_BEGUN_TOTAL: &str = "rocinante_flows_begun_total";
/// Flows that expired; by shard.
pub const FLOWS_EXPIRED_TOTAL: &str = "rocinante_flows_expired_total";
/// Flows that gave way because their shard was full; by shard.
pub const FLOWS_EVICTED_TOTAL: &str = "rocinante_flows_evicted_total";
/// Committed batches of sniffers that had come before and changed nothing; by shard.
pub const FLOW_BATCHES_AGAIN_TOTAL: &str = "rocinante_flow_batches_again_total";
/// Observations for which a flow had no place: more sniffers saw it than are kept; by shard.
pub const FLOW_OBSERVATIONS_UNPLACED_TOTAL: &str = "rocinante_flow_observations_unplaced_total";
/// Sniffers that push to this instance now.
pub const FLOW_PUSHES_OPEN: &str = "rocinante_flow_pushes_open";
/// Batches that sniffers pushed to this instance; by outcome: acked, again, gap, other_epoch, later or malformed.
pub const FLOW_BATCHES_TOTAL: &str = "rocinante_flow_batches_total";

// Choices.

/// Choices of a backend; by source: cache, table, commit or isolated.
pub const DECISIONS_TOTAL: &str = "rocinante_decisions_total";
/// How long a choice took; by source.
pub const DECISION_SECONDS: &str = "rocinante_decision_seconds";

// The process.

/// Always 1; by instance label and version.
pub const BUILD_INFO: &str = "rocinante_build_info";
/// Memory that is resident.
pub const PROCESS_MEMORY_BYTES: &str = "rocinante_process_memory_bytes";
/// CPU time used.
pub const PROCESS_CPU_SECONDS: &str = "rocinante_process_cpu_seconds_total";
/// Threads.
pub const PROCESS_THREADS: &str = "rocinante_process_threads";
/// Open file descriptors.
pub const PROCESS_DESCRIPTORS: &str = "rocinante_process_descriptors";
/// Tasks that are alive; by runtime.
pub const PROCESS_TASKS: &str = "rocinante_process_tasks";
/// Client connections open now; by pool.
pub const CONNECTIONS_OPEN: &str = "rocinante_connections_open";
/// Client connections accepted, refused ones included; by pool.
pub const CONNECTIONS_TOTAL: &str = "rocinante_connections_total";
/// Connections (TCP) or requests (HTTP) that a backend is serving through this instance now; by pool and backend.
pub const SESSIONS_OPEN: &str = "rocinante_sessions_open";
/// Connections (TCP) or requests (HTTP) given to a backend; by pool and backend.
pub const SESSIONS_TOTAL: &str = "rocinante_sessions_total";
/// Bytes taken from clients and passed to a backend (bodies for HTTP); by pool and backend.
pub const RECEIVED_BYTES: &str = "rocinante_received_bytes";
/// Bytes taken from a backend and passed to clients (bodies for HTTP); by pool and backend.
pub const SENT_BYTES: &str = "rocinante_sent_bytes";
/// Answers to HTTP requests; by pool, backend and class of status (`2xx`).
pub const RESPONSES_TOTAL: &str = "rocinante_responses_total";
/// Clients (TCP) or requests (HTTP) that got no backend; by pool and reason.
pub const REFUSALS_TOTAL: &str = "rocinante_refusals_total";
/// What went wrong with a backend's connections or their clients'; by pool, backend and reason.
pub const ERRORS_TOTAL: &str = "rocinante_errors_total";
/// Connections carried for other instances now.
pub const RELAYS_OPEN: &str = "rocinante_relays_open";
/// Connections that other instances asked to be carried; by outcome.
pub const RELAYS_TOTAL: &str = "rocinante_relays_total";
/// Accepts that failed for want of descriptors or memory.
pub const ACCEPT_ERRORS_TOTAL: &str = "rocinante_accept_errors_total";
