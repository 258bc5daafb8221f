//! Relays between peers: what goes from one instance to another passes through here and can be stalled, delayed or reset.
//!
//! One relay stands before each instance, on the address the others know. Every instance dials from its own address, so the
//! relay knows the pair by the peer address. A stalled pair carries nothing in that direction, on connections of either side:
//! as behind a dead link, nobody is told, and what was sent arrives when the link heals.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::error::{Error, Result};

/// How the way from one instance to another is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Way {
    /// Bytes pass.
    #[default]
    Open,
    /// Bytes pass later.
    Delayed(Duration),
    /// Nothing passes and nobody is told.
    Stalled,
    /// Connections are reset, new ones too.
    Reset,
}

/// The relays before all instances of one fleet; dropping it closes everything.
#[derive(Debug)]
pub struct Relays {
    ways: watch::Sender<Ways>,
    _accepting: JoinSet<()>,
}

/// The ways that are not open, by the addresses of both ends.
#[derive(Clone, Debug, Default)]
struct Ways(HashMap<(IpAddr, IpAddr), Way>);

impl Ways {
    fn way(&self, from: IpAddr, to: IpAddr) -> Way {
        self.0.get(&(from, to)).copied().unwrap_or_default()
    }
}

impl Relays {
    /// Puts a relay on each `(known, real)` pair: others dial `known`, the instance listens on `real`.
    pub async fn start(pairs: &[(SocketAddr, SocketAddr)]) -> Result<Relays> {
        let ways = watch::Sender::new(Ways::default());
        let mut accepting = JoinSet::new();
        for (known, real) in pairs {
            let listener =
                TcpListener::bind(known).await.map_err(Error::io(format!("listening on {known} for the relay")))?;
            accepting.spawn(accept(listener, *real, ways.subscribe()));
        }
        Ok(Relays { ways, _accepting: accepting })
    }

    /// Changes the way from one instance to another; the way back is another way.
    pub fn set(&self, from: IpAddr, to: IpAddr, way: Way) {
        self.ways.send_modify(|ways| {
            ways.0.insert((from, to), way);
        });
    }

    /// Changes both ways between two instances.
    pub fn set_between(&self, one: IpAddr, other: IpAddr, way: Way) {
        self.set(one, other, way);
        self.set(other, one, way);
    }
}

async fn accept(listener: TcpListener, real: SocketAddr, ways: watch::Receiver<Ways>) {
    let mut links = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, peer)) = accepted
                    && links.len() < LINKS_MAX
                {
                    links.spawn(link(stream, peer.ip(), real, ways.clone()));
                }
            }
            Some(_) = links.join_next(), if !links.is_empty() => {}
        }
    }
}

/// Carries one connection until either side ends it or the way is reset.
async fn link(near: TcpStream, from: IpAddr, real: SocketAddr, mut ways: watch::Receiver<Ways>) {
    let to = real.ip();
    // A handshake needs both directions; the failure of one watch means that the relays are gone.
    let passable = ways.wait_for(|ways| {
        let blocked = |way| way == Way::Stalled;
        !blocked(ways.way(from, to)) && !blocked(ways.way(to, from))
    });
    if passable.await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(real).await else {
        return reset(&near);
    };
    let near = Arc::new(near);
    let far = Arc::new(far);
    for stream in [&near, &far] {
        // Only a matter of speed.
        stream.set_nodelay(true).ok();
    }
    let cut = {
        let mut watching = ways.clone();
        async move {
            watching.wait_for(|ways| ways.way(from, to) == Way::Reset || ways.way(to, from) == Way::Reset).await.ok();
        }
    };
    tokio::select! {
        () = carry_both(&near, &far, from, to, &ways) => {}
        () = cut => {}
    }
    reset(&near);
    reset(&far);
}

async fn carry_both(near: &TcpStream, far: &TcpStream, from: IpAddr, to: IpAddr, ways: &watch::Receiver<Ways>) {
    // The first error of either direction ends both; an orderly end of one leaves the other going.
    tokio::try_join!(carry(near, far, (from, to), ways.clone()), carry(far, near, (to, from), ways.clone())).ok();
}

async fn carry(
    source: &TcpStream,
    sink: &TcpStream,
    (from, to): (IpAddr, IpAddr),
    mut ways: watch::Receiver<Ways>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        source.readable().await?;
        let count = match source.try_read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let gone = |_| std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        let way = ways.wait_for(|ways| ways.way(from, to) != Way::Stalled).await.map_err(gone)?.way(from, to);
        if let Way::Delayed(delay) = way {
            tokio::time::sleep(delay).await;
        }
        if count == 0 {
            return SockRef::from(sink).shutdown(std::net::Shutdown::Write);
        }
        let mut rest = buffer.get(..count).unwrap_or_default();
        while !rest.is_empty() {
            sink.writable().await?;
            match sink.try_write(rest) {
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Makes the close of a connection a reset; when that cannot be set the close is an ordinary one.
fn reset(stream: &TcpStream) {
    SockRef::from(stream).set_linger(Some(Duration::ZERO)).ok();
}

const BUFFER_BYTES: usize = 64 * 1024;
/// One relay carries so many connections at once; more are closed.
const LINKS_MAX: usize = 256;
