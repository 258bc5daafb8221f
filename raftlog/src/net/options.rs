//! The limits of the transport: the fixed ones, which both sides of a link rely on, and the ones an owner may set.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use super::network::Network;
use super::tls::Tls;

/// The version of link.proto that this code speaks.
pub const LINK_VERSION: u32 = 3;
/// The largest frame that is sent or taken.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Waiting frames are merged into one message up to this size; a larger frame travels alone.
pub const BATCH_BYTES_MAX: usize = 256 << 10;
/// The most frames in one message.
pub const BATCH_FRAMES_MAX: usize = 1024;
/// The largest message on a link or of a snapshot: a frame, or a batch, and what protobuf adds to it.
pub const MESSAGE_BYTES_MAX: usize = FRAME_BYTES_MAX + (64 << 10);
/// The largest message in the other direction: the owner's answer to a hello, or a pong.
pub const REPLY_BYTES_MAX: usize = 128 << 10;
/// The longest sentence with which a peer may say no.
pub const REFUSAL_TEXT_CHARS_MAX: usize = 1024;
/// The most peers of one instance.
pub const PEERS_MAX: usize = 128;
/// The size of a snapshot's chunks.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 << 10;
/// HTTP/2 flow control: what one stream, and one connection, may have under way.
pub const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// See [`STREAM_WINDOW_BYTES`].
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The largest HTTP/2 frame: frames of Raft seldom need two.
pub const HTTP2_FRAME_BYTES_MAX: u32 = 64 << 10;
/// The most header bytes that a request may carry.
pub const HEADER_LIST_BYTES_MAX: u32 = 16 << 10;
/// The most streams that one connection may have open at a time.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// The most streams that a client may open and reset before its connection is closed.
pub const RESET_STREAMS_MAX: usize = 64;

/// What an owner may set. The defaults are meant for a fleet within one site.
#[derive(Clone, Debug)]
pub struct Options {
    /// What proves who this instance and its peers are; without it they believe each other and speak plaintext.
    pub tls: Option<Arc<Tls>>,
    /// Where peers' addresses lead.
    pub network: Network,
    /// The source address of every connection to a peer; the system's choice when absent.
    pub local_address: Option<IpAddr>,
    /// How long a dial may take, name resolution included.
    pub connect_timeout: Duration,
    /// How long a peer may take to say or answer hello.
    pub hello_timeout: Duration,
    /// The first pause between dials.
    pub backoff_min: Duration,
    /// The longest pause between dials; also how often a lost link may be dialled again without any pause.
    pub backoff_max: Duration,
    /// How often HTTP/2 asks whether the other side is still there.
    pub keepalive_interval: Duration,
    /// How long the other side may take to answer that.
    pub keepalive_timeout: Duration,
    /// How often the link itself asks the peer's transport for a pong.
    pub ping_interval: Duration,
    /// A link with this many pings unanswered is closed.
    pub pings_unanswered_max: u32,
    /// How many bytes of frames may wait for one link.
    pub queue_bytes_max: usize,
    /// How many frames may wait for one link.
    pub queue_frames_max: usize,
    /// How many peers may have a link to us.
    pub inbound_links_max: usize,
    /// How many streams may be waiting for their hello.
    pub hellos_pending_max: usize,
    /// How long a snapshot that comes in may be, in bytes.
    pub snapshot_bytes_max: u64,
    /// How many snapshots may be on their way in at a time; each takes a thread, and memory for some chunks.
    pub snapshots_inbound_max: usize,
    /// How many times in a row a broken transfer is tried again without bringing anything new.
    pub snapshot_tries_max: u32,
    /// How fast a snapshot may be sent; unlimited when absent.
    pub snapshot_bytes_per_second: Option<NonZeroU64>,
    /// How long a snapshot may stand still on its way, on either side.
    pub snapshot_idle_timeout: Duration,
    /// How long the receiver may take to check a snapshot that has fully arrived.
    pub snapshot_install_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            tls: None,
            network: Network::Tcp,
            local_address: None,
            connect_timeout: Duration::from_secs(1),
            hello_timeout: Duration::from_secs(2),
            backoff_min: Duration::from_millis(20),
            backoff_max: Duration::from_secs(1),
            keepalive_interval: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(3),
            ping_interval: Duration::from_secs(1),
            pings_unanswered_max: 5,
            queue_bytes_max: 32 << 20,
            queue_frames_max: 16 << 10,
            inbound_links_max: PEERS_MAX,
            hellos_pending_max: 64,
            snapshot_bytes_max: 64 << 30,
            snapshots_inbound_max: 8,
            snapshot_tries_max: 10,
            snapshot_bytes_per_second: None,
            snapshot_idle_timeout: Duration::from_secs(10),
            snapshot_install_timeout: Duration::from_secs(120),
        }
    }
}
