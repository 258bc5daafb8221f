//! Every limit of the data path that is not a pool's own setting, in one place.

use std::time::Duration;

/// The limits that an operator may set, for all pools of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most bytes in the head of an HTTP/1 request, request line included; also of an HTTP/2 header list.
    pub head_bytes: usize,
    /// Most fields in the head of an HTTP request.
    pub head_fields: usize,
    /// How long a client may take for a request's head, from its first byte.
    pub head_timeout: Duration,
    /// How long a new HTTP connection may stay silent before its first request.
    pub first_byte_timeout: Duration,
    /// How long an HTTP connection may stay silent between two requests.
    pub keepalive_timeout: Duration,
    /// How long an HTTP client may take to take the next part of an answer.
    pub write_timeout: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub h2_streams: u32,
    /// Connections carried for other instances at once.
    pub relays: usize,
}

impl Default for Limits {
    fn default() -> Self {
        crate::config::Limits::default().into()
    }
}

impl From<crate::config::Limits> for Limits {
    fn from(set: crate::config::Limits) -> Self {
        Self {
            head_bytes: set.max_header_bytes,
            head_fields: set.max_headers,
            head_timeout: set.header_timeout,
            first_byte_timeout: set.first_request_timeout,
            keepalive_timeout: set.keepalive_timeout,
            write_timeout: set.write_timeout,
            h2_streams: set.max_h2_streams,
            relays: set.max_relays,
        }
    }
}

/// Most worker threads, whatever the machine has.
pub const WORKERS_MAX: usize = 64;
/// Connections that may wait in the kernel to be accepted, per listener.
pub const BACKLOG: i32 = 4096;
/// Connections taken out of the backlog when a listener closes, so that nobody who was let in is cut.
pub const ACCEPT_LAST_MAX: usize = 4096;
/// How long a worker stops accepting after it ran out of descriptors or memory.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How often an idle worker wakes. A timer set beyond the next wake costs nothing; one before it costs a system call,
/// and almost every connection sets one.
pub const TICK: Duration = Duration::from_millis(200);
/// How much busier than the idlest worker one may be before it gives a new connection away.
pub const IMBALANCE_MAX: usize = 16;
/// How long a pool whose workers could not accept waits before it listens again.
pub const ACCEPT_RETRY: Duration = Duration::from_secs(1);
/// First wait after a failed bind; doubles.
pub const BIND_BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest wait between two attempts to bind.
pub const BIND_BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Choices tried for one connection or request before it is refused.
pub const CHOICES_MAX: usize = 4;
/// Peers asked to relay one connection.
pub const RELAY_PEERS_MAX: usize = 2;
/// How long a real death may take to be settled before a peer is asked to relay.
pub const RELAY_GRACE: Duration = Duration::from_millis(100);
/// Frames that wait in one direction of a relayed connection.
pub const RELAY_FRAMES_QUEUED: usize = 8;
/// Most bytes in one relayed frame that this instance sends.
pub const RELAY_CHUNK_BYTES: usize = 32 * 1024;
/// Most bytes in one relayed frame that this instance takes.
pub const RELAY_FRAME_BYTES_MAX: usize = 256 * 1024;
/// Peers to which channels are kept open for relaying.
pub const RELAY_CHANNELS_MAX: usize = 64;
/// Relayed connections that share one channel, each a stream of its own; below what a peer's port allows.
pub const RELAYS_PER_CHANNEL: usize = 200;
/// Channels to one peer at most.
pub const RELAY_CHANNELS_PER_PEER_MAX: usize = 64;
/// Bytes that may be on their way to a client of one relayed connection. One that takes nothing holds as many back.
pub const RELAY_STREAM_WINDOW: u32 = 64 * 1024;
/// The same for all streams of a channel: room for each, so that none that is not read can stall the others.
pub const RELAY_CHANNEL_WINDOW: u32 = 256 * RELAY_STREAM_WINDOW;
/// How often a silent channel to a peer is asked whether it lives.
pub const RELAY_PING: Duration = Duration::from_secs(5);
/// Longest connect that a relaying instance makes for another.
pub const RELAY_CONNECT_MAX: Duration = Duration::from_secs(10);
/// Longest silence on a connection relayed for another instance.
pub const RELAY_IDLE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Bytes moved by one read in copy mode; the buffer belongs to the thread, not to the connection.
pub const COPY_BYTES: usize = 64 * 1024;
/// Full reads in a row after which a direction goes over to splice.
pub const FULL_READS_TO_SPLICE: u8 = 2;
/// Capacity asked of a pipe that splice works through.
pub const PIPE_BYTES: usize = 256 * 1024;
/// Pipes that a worker keeps for the next bulk transfer.
pub const PIPES_KEPT: usize = 64;
/// Below this much between two waits a transfer is no bulk transfer.
pub const BULK_BYTES: usize = 16 * 1024;
/// Small transfers in a row after which a direction goes back from splice to copy.
pub const SMALL_TO_COPY: u8 = 4;
/// Reads by one direction in one turn, so that a fast connection does not starve the others.
pub const MOVES_PER_TURN: usize = 16;

/// How long the rest of a request's body is awaited after the answer, to keep the connection.
pub const BODY_DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of an answer gathered before they are written.
pub const ANSWER_BUFFER_BYTES: usize = 8 * 1024;
/// How long an error answer may take to be taken.
pub const ERROR_ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Idle connections to backends that one worker keeps.
pub const BACKEND_CONNECTIONS_KEPT: usize = 512;
/// How long an idle connection to a backend is kept.
pub const BACKEND_KEEPALIVE: Duration = Duration::from_secs(30);
/// How often one request may be given to a backend, the first time included.
pub const REQUEST_TRIES_MAX: usize = 8;
/// What `Retry-After` says, in seconds.
pub const RETRY_AFTER_SECONDS: &str = "1";
/// Most bytes read and thrown away after an error answer, so that closing does not reset the answer.
pub const ERROR_DRAIN_BYTES: u64 = 128 * 1024;
/// How often an instance says that it cannot accept, at most.
pub const ACCEPT_WARNING: Duration = Duration::from_secs(1);
