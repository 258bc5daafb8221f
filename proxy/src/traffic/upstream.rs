//! From a client to a connection with the fleet's choice for it: choose, connect, and what to do when that fails.
//!
//! ```text
//! choose -> connect -> still stands? -> connection
//!   ^          |            | no
//!   |          | refused    +--> choose anew
//!   |          v
//!   +-- another choice was settled   (within `retry_for`)
//!       or a peer relays             (asked after a short grace)
//!       or refused: unreachable here
//! ```
//! Only the connect itself can fail in this sense. A backend that accepts and then resets, even before the first byte,
//! ends its connection like any other reset: it may have acted on what it was sent, and health checks judge it.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use flow::{PinKey, PoolSpec};
use tokio::net::TcpStream;
use tracing::debug;

use super::{
    counters::{Fault, Metrics, RefusedFor},
    limits,
    pool::{Pool, millis},
    relay::{Caller, Carried},
    socket::{self, Blame, Source},
};
use crate::choice::{Choice, Chooser, Refusal};

/// What every connection needs, whatever its pool.
pub struct Shared<C> {
    /// The fleet.
    pub chooser: C,
    /// The instance's own address.
    pub own: IpAddr,
    /// Asks peers to relay.
    pub caller: Caller,
    /// What is counted.
    pub metrics: std::sync::Arc<Metrics>,
}

/// A connection with the chosen backend.
pub enum Upstream {
    /// From here.
    Direct(TcpStream),
    /// Through a peer.
    Relayed(Carried),
}

/// What followed a failed connect.
pub enum Next {
    /// The fleet settled on another backend.
    Choice(Choice),
    /// A peer carries the connection to the same backend.
    Relayed(Carried),
}

impl<C: Chooser> Shared<C> {
    /// The fleet's choice for `key`, waiting at most the pool's `decide_timeout`.
    pub async fn choose(&self, key: PinKey, spec: &PoolSpec) -> Result<Choice, Refusal> {
        match self.chooser.choose_now(&key) {
            Some(choice) => Ok(choice),
            None => self.chooser.choose(key, Instant::now() + millis(spec.decide_timeout_ms)).await,
        }
    }

    /// Where connections to backends for `client` come from.
    pub fn source(&self, spec: &PoolSpec, client: SocketAddr) -> Source {
        if spec.transparent { Source::Client(client) } else { Source::Own(self.own) }
    }

    /// A connection with the fleet's choice for `client`, or why there is none.
    pub async fn establish(
        &self,
        pool: &Pool,
        spec: &PoolSpec,
        client: SocketAddr,
    ) -> Result<(Upstream, Choice), RefusedFor> {
        let key = PinKey::new(pool.id, client.ip());
        let mut choice = self.choose(key, spec).await?;
        for _ in 0..limits::CHOICES_MAX {
            let source = self.source(spec, client);
            let connected = socket::connect(source, choice.address, millis(spec.connect_timeout_ms)).await;
            let upstream = match connected {
                Ok(stream) => Upstream::Direct(stream),
                Err(error) => {
                    let fault = match socket::blame(&error) {
                        Blame::Backend(fault) => fault,
                        blame => {
                            debug!(pool = spec.name, backend = &*choice.name, %error, "no socket for a connect");
                            let client = matches!(blame, Blame::Client(_));
                            return Err(if client { RefusedFor::NotTransparent } else { RefusedFor::Exhausted });
                        }
                    };
                    debug!(pool = spec.name, backend = &*choice.name, %client, %error, "connect failed");
                    match self.after_failure(pool, spec, client, &choice, fault).await? {
                        Next::Relayed(carried) => Upstream::Relayed(carried),
                        Next::Choice(other) => {
                            choice = other;
                            continue;
                        }
                    }
                }
            };
            // The process may have been paused since the choice; nothing was passed yet, so nothing is lost.
            if self.chooser.still_stands(&key, &choice) {
                return Ok((upstream, choice));
            }
            pool.counters.backend(choice.backend, &choice.name).fault(Fault::ChoiceLapsed);
            choice = self.choose(key, spec).await?;
        }
        Err(RefusedFor::UnreachableHere)
    }

    /// Says that `failed` did not answer here, then waits for whatever comes first: another settled choice or a peer
    /// that relays. A peer is asked only after a grace, so that a real death is settled first.
    pub async fn after_failure(
        &self,
        pool: &Pool,
        spec: &PoolSpec,
        client: SocketAddr,
        failed: &Choice,
        fault: Fault,
    ) -> Result<Next, RefusedFor> {
        pool.counters.backend(failed.backend, &failed.name).fault(fault);
        self.chooser.connect_failed(failed);
        let deadline = Instant::now() + millis(spec.retry_for_ms);
        let settled = self.chooser.choose_again(PinKey::new(pool.id, client.ip()), failed, deadline);
        let relayed = async {
            tokio::time::sleep(limits::RELAY_GRACE).await;
            self.relay(spec, client, failed, deadline).await
        };
        tokio::pin!(settled, relayed);
        let mut relay_failed = false;
        loop {
            tokio::select! {
                biased;
                choice = &mut settled => return match choice {
                    Ok(choice) => Ok(Next::Choice(choice)),
                    // The verdict stayed: only a peer can help now, and it has until the same deadline.
                    Err(Refusal::Timeout) if !relay_failed => relayed.await.map(Next::Relayed).ok_or(RefusedFor::UnreachableHere),
                    Err(Refusal::Timeout) => Err(RefusedFor::UnreachableHere),
                    Err(refusal) => Err(refusal.into()),
                },
                carried = &mut relayed, if !relay_failed => match carried {
                    Some(carried) => return Ok(Next::Relayed(carried)),
                    None => relay_failed = true,
                },
            }
        }
    }

    /// The connection to `choice` through the first peer that can make it. Each has its share of the time that is left:
    /// one that is silent does not keep the next from being asked.
    async fn relay(&self, spec: &PoolSpec, client: SocketAddr, choice: &Choice, deadline: Instant) -> Option<Carried> {
        let peers = self.chooser.relays(choice.backend);
        let count = peers.len().min(limits::RELAY_PEERS_MAX);
        for (asked, peer) in peers.into_iter().take(count).enumerate() {
            let now = Instant::now();
            let share = deadline.saturating_duration_since(now) / u32::try_from(count - asked).unwrap_or(1);
            match self.caller.open(peer, choice.backend, client, spec, now + share).await {
                Ok(carried) => return Some(carried),
                Err(error) => debug!(pool = spec.name, backend = &*choice.name, %peer, %error, "peer does not relay"),
            }
        }
        None
    }
}
