//! What the owner of a transport gives it, and what it gets back.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};

use bytes::Bytes;

use super::options::REFUSAL_TEXT_CHARS_MAX;
use crate::NodeId;

/// Where a peer is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PeerAddress {
    /// The peer's name in the fleet.
    pub label: Arc<str>,
    /// An IP address or a name; names are resolved at every dial.
    pub host: Arc<str>,
    /// The port of its gRPC server.
    pub port: u16,
}

impl PeerAddress {
    /// The peer `label` at `host`:`port`.
    pub fn new(label: &str, host: &str, port: u16) -> PeerAddress {
        PeerAddress { label: label.into(), host: host.into(), port }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') && !self.host.starts_with('[') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// A no: a number for programs and a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text} (code {code})")]
pub struct Refused {
    /// The owner's number, or one of the constants of this type.
    pub code: u32,
    /// Why, and what to do about it.
    pub text: String,
}

impl Refused {
    /// The peer speaks a version of the protocol that is unknown here. Codes from here on belong to the transport.
    pub const VERSION: u32 = u32::MAX - 15;

    /// The certificate is that of another instance than the hello's, or there is none.
    pub const IDENTITY: u32 = u32::MAX - 14;

    /// There is no connection that both sides trust: another authority, an expired certificate, or TLS on one side only.
    pub const UNTRUSTED: u32 = u32::MAX - 13;

    /// A no of the owner.
    pub fn new(code: u32, text: impl Into<String>) -> Refused {
        Refused { code, text: text.into() }
    }

    /// A no that came from outside, its sentence cut to a bearable length.
    pub(super) fn from_wire(code: u32, text: &str) -> Refused {
        Refused { code, text: text.chars().take(REFUSAL_TEXT_CHARS_MAX).collect() }
    }
}

/// Says who may come in. Everything but [`Gate::receive`] is called on the runtime's threads and must not block.
pub trait Gate: Send + Sync + 'static {
    /// What to say first to the peer at `to`, for a link as well as for a snapshot.
    fn hello(&self, to: &PeerAddress) -> Bytes;

    /// The label of the instance that a hello says it comes from. Only a hello whose label is that of the certificate is
    /// put to [`Gate::admit`].
    fn label_of(&self, hello: &[u8]) -> Result<String, Refused>;

    /// Judges the hello of someone who came from `remote`: who it is and what to answer, or why it may not come in.
    /// Called for each link and each snapshot.
    fn admit(&self, hello: &[u8], remote: SocketAddr) -> Result<(NodeId, Bytes), Refused>;

    /// Judges the answer of the peer at `to`: who it is, or why we do not want to talk to it.
    fn accepted(&self, to: &PeerAddress, reply: &[u8]) -> Result<NodeId, Refused>;

    /// Where a snapshot that `from` offers is to go, or why it is not wanted. Called, like all that it returns, on a
    /// thread that may block; one at a time per sender.
    fn receive(&self, from: NodeId, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, Refused>;
}

/// A snapshot that a peer wants to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// What the sender's owner said of it.
    pub meta: Bytes,
    /// How long the file is.
    pub total_bytes: u64,
    /// The transfer: only what came under the same number, from the same peer, is part of the same file.
    pub transfer: u64,
}

/// Takes the bytes of one snapshot file. Dropped without [`SnapshotSink::finish`], the transfer was broken off; whoever
/// made it may keep what came, and say so when the transfer goes on.
pub trait SnapshotSink: Send {
    /// How many bytes are there already; the next one is wanted first.
    fn have_bytes(&self) -> u64;

    /// Takes the next bytes.
    ///
    /// # Errors
    /// Why no more are wanted. The sender does not try again.
    fn append(&mut self, bytes: &[u8]) -> Result<(), Refused>;

    /// All bytes are there.
    ///
    /// # Errors
    /// Why the file is not taken. The sender does not try again.
    fn finish(self: Box<Self>) -> Result<(), Refused>;
}

/// A snapshot file to be sent. Read on threads that may block, from any offset and more than once.
pub trait SnapshotSource: Send + Sync + 'static {
    /// How long it is, in bytes. It does not change.
    fn total_bytes(&self) -> u64;

    /// Fills the buffer with what is at `offset`.
    ///
    /// # Errors
    /// If the file cannot be read, or ends before.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// A small one, in memory.
impl SnapshotSource for Bytes {
    fn total_bytes(&self) -> u64 {
        self.len() as u64
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let part = start.checked_add(buffer.len()).and_then(|end| self.get(start..end));
        buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// What a transport has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A frame arrived.
    Frame {
        /// Who sent it.
        from: NodeId,
        /// The frame.
        bytes: Bytes,
    },
    /// The peer accepted our hello; frames can be sent to it.
    LinkUp {
        /// Who it is.
        peer: NodeId,
        /// Its name in the fleet.
        label: Arc<str>,
    },
    /// The link to the peer was lost (`refused` false), or the peer's system said that nobody listens at its port
    /// (`refused` true: the process is gone). The second follows the first within milliseconds when a process dies,
    /// comes alone when a process was not there from the start, and is said once until the link is up again.
    /// Nothing is said when the owner itself took the peer away.
    LinkDown {
        /// Its name in the fleet.
        label: Arc<str>,
        /// Who it was, when it ever was up.
        peer: Option<NodeId>,
        /// Whether its port refuses connections.
        refused: bool,
    },
    /// The peer said no to our hello, or we to its answer; said again only when the answer changes. Dialling goes on.
    Refused {
        /// Its name in the fleet.
        label: Arc<str>,
        /// Where it was dialled.
        address: String,
        /// The code and text of the one who said no.
        refused: Refused,
    },
}

/// Takes events. Must never block.
pub trait Inbox: Send + Sync + 'static {
    /// Takes the event or gives it back when there is no room. A frame given back is dropped and counted; news of links
    /// are offered again until they are taken, in order per peer.
    fn offer(&self, event: Event) -> Result<(), Event>;
}

impl Inbox for SyncSender<Event> {
    fn offer(&self, event: Event) -> Result<(), Event> {
        self.try_send(event).map_err(|error| match error {
            TrySendError::Full(event) | TrySendError::Disconnected(event) => event,
        })
    }
}
