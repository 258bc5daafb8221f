//! Lets everybody in, and takes the snapshots they send.

use std::{
    net::SocketAddr,
    sync::mpsc::{SyncSender, TrySendError},
};

use bytes::Bytes;
use raftlog::{
    NodeId,
    net::{Event, Gate, Inbox, PeerAddress, Refused, SnapshotOffer, SnapshotSink},
    wal::{Receiving, SnapshotStore},
};

use crate::{
    node::Input,
    snapshots::{Place, read_meta},
    table::Table,
};

/// The gate of a node.
pub struct Open {
    pub id: NodeId,
    pub store: SnapshotStore,
    pub inputs: SyncSender<Input>,
}

impl Gate for Open {
    fn hello(&self, _to: &PeerAddress) -> Bytes {
        Bytes::copy_from_slice(&self.id.0.to_be_bytes())
    }

    fn label_of(&self, hello: &[u8]) -> Result<String, Refused> {
        node(hello).map(label)
    }

    fn admit(&self, hello: &[u8], _remote: SocketAddr) -> Result<(NodeId, Bytes), Refused> {
        Ok((node(hello)?, Bytes::copy_from_slice(&self.id.0.to_be_bytes())))
    }

    fn accepted(&self, _to: &PeerAddress, reply: &[u8]) -> Result<NodeId, Refused> {
        node(reply)
    }

    fn receive(&self, from: NodeId, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, Refused> {
        let (place, message) = read_meta(offer.meta).ok_or_else(|| refused("the meta makes no sense"))?;
        let receiving = self.store.receive(place.0, place.1, place.2).map_err(refused)?;
        Ok(Box::new(Sink { from, place, message, receiving, inputs: self.inputs.clone() }))
    }
}

/// How a node is called.
pub fn label(id: NodeId) -> String {
    format!("n{id}")
}

fn node(bytes: &[u8]) -> Result<NodeId, Refused> {
    bytes.try_into().map(|bytes| NodeId(u64::from_be_bytes(bytes))).map_err(|_| refused("not an id"))
}

fn refused(text: impl ToString) -> Refused {
    Refused::new(1, text.to_string())
}

/// A snapshot file on its way in. One that is broken off begins anew.
struct Sink {
    from: NodeId,
    place: Place,
    message: Bytes,
    receiving: Receiving,
    inputs: SyncSender<Input>,
}

impl SnapshotSink for Sink {
    fn have_bytes(&self) -> u64 {
        self.receiving.len()
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Refused> {
        self.receiving.append(bytes).map_err(refused)
    }

    fn finish(self: Box<Self>) -> Result<(), Refused> {
        let received = self.receiving.finish().map_err(refused)?;
        let mut reader = received.reader().map_err(refused)?;
        let meta = Bytes::copy_from_slice(reader.meta());
        let table = Table::read_from(&mut reader);
        reader.finish().map_err(refused)?;
        let table = Box::new(table.map_err(refused)?);
        let (from, place, message) = (self.from, self.place, self.message);
        let input = Input::Snapshot { from, place, message, meta, table, received: Box::new(received) };
        self.inputs.send(input).map_err(|_| refused("the node is stopping"))
    }
}

/// Hands events to the node.
pub struct Events(pub SyncSender<Input>);

impl Inbox for Events {
    fn offer(&self, event: Event) -> Result<(), Event> {
        match self.0.try_send(Input::Net(event)) {
            Err(TrySendError::Full(Input::Net(event)) | TrySendError::Disconnected(Input::Net(event))) => Err(event),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}
