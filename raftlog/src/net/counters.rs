//! What a transport counts.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Counts since the start. They only grow.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[doc = $doc])+ pub $name: AtomicU64,)+
        }

        impl Counters {
            /// The name, meaning and value of each, in the order of the fields.
            pub fn values(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($doc),+).trim(), self.$name.load(Ordering::Relaxed)),)+].into_iter()
            }
        }
    };
}

counters! {
    /// Frames handed to a link's connection.
    frames_sent,
    /// Their bytes.
    frame_bytes_sent,
    /// Messages that carried them; fewer than the frames when frames had to wait.
    messages_sent,
    /// Frames that arrived and were taken by the inbox.
    frames_received,
    /// Their bytes.
    frame_bytes_received,
    /// Frames not sent because they were larger than the limit.
    dropped_oversized,
    /// Frames not sent because the receiver is no known peer.
    dropped_unknown_peer,
    /// Frames not sent because the link was down, or went down while they waited.
    dropped_link_down,
    /// Frames not sent because too much was waiting for the link.
    dropped_queue_full,
    /// Frames that arrived and were not taken by the inbox.
    dropped_inbox_full,
    /// Frames that arrived and were larger than the limit.
    dropped_received_oversized,
    /// News of links that had to be offered to the inbox again.
    events_delayed,
    /// Dials to peers.
    dials,
    /// Dials that did not connect.
    dials_failed,
    /// Of these, the ones where nobody listened at the port.
    dials_refused,
    /// Links to peers that came up.
    links_opened,
    /// Of these, the ones after the first to the same peer.
    links_reopened,
    /// Links to peers that were lost.
    links_lost,
    /// Hellos of ours that were refused, or whose answer we refused.
    hellos_turned_down,
    /// Links of peers that were let in.
    inbound_links_opened,
    /// Links of peers that ended.
    inbound_links_closed,
    /// Hellos of others that were refused.
    inbound_hellos_refused,
    /// Streams without a proper hello in time.
    inbound_hellos_missing,
    /// Streams and links sent away because too many were open.
    inbound_shed,
    /// Links of peers closed because of what came on them.
    inbound_links_broken,
    /// Connections sent away because too many were open.
    connections_shed,
    /// Connections closed because they did not begin to speak HTTP/2 in time.
    connections_silent,
    /// Connections that were not let in for want of a good certificate, or of TLS on both sides.
    handshakes_failed,
    /// Connections that could not be accepted.
    accepts_failed,
    /// Snapshots that a peer took.
    snapshots_sent,
    /// Snapshots that did not get there.
    snapshots_send_failed,
    /// Times that a broken transfer to a peer went on where it was.
    snapshots_resumed,
    /// Bytes of snapshots handed to a connection.
    snapshot_bytes_sent,
    /// Snapshots that were taken here.
    snapshots_received,
    /// Transfers from peers that broke, or whose snapshot was not taken.
    snapshots_receive_failed,
    /// Bytes of snapshots that arrived and were checked.
    snapshot_bytes_received,
}

pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

pub(super) fn one(counter: &AtomicU64) {
    add(counter, 1);
}
