//! One client's TCP connection, from accept to close.

use std::net::SocketAddr;

use flow::PinKey;
use tokio::net::TcpStream;
use tracing::debug;

use super::{
    counters::{Fault, Session},
    pool::{Admitted, Pool, rhythm},
    proxy_protocol, relay,
    socket::reset_on_close,
    tunnel::{self, End, Rhythm},
    upstream::{Shared, Upstream},
};
use crate::choice::Chooser;

/// Serves `stream`, which came from `client` and was admitted.
pub async fn serve<C: Chooser>(shared: &Shared<C>, admitted: &Admitted, stream: TcpStream, client: SocketAddr) {
    // Boxed: an open connection does not keep the room that finding its backend takes.
    let Some(Begun { upstream, session, first, rhythm }) =
        Box::pin(begin(shared, admitted.pool(), &stream, client)).await
    else {
        return;
    };
    let key = PinKey::new(admitted.pool().id, client.ip());
    let touch = || shared.chooser.touch(&key);
    let end = match upstream {
        Upstream::Direct(backend) => tunnel::carry(stream, backend, first, rhythm, session.counters(), touch).await,
        Upstream::Relayed(carried) => {
            Box::pin(relay::carry_client(stream, carried, first, rhythm, session.counters(), touch)).await
        }
    };
    let fault = match end {
        End::Closed => return,
        End::ClientReset => Fault::ClientReset,
        End::BackendReset => Fault::BackendReset,
        End::Idle => Fault::IdleTimeout,
    };
    session.counters().fault(fault);
}

/// A connection that found its backend.
struct Begun {
    upstream: Upstream,
    session: Session,
    /// What the backend gets before the client's bytes.
    first: Vec<u8>,
    rhythm: Rhythm,
}

/// Finds the backend; `None` when the client was refused.
async fn begin<C: Chooser>(shared: &Shared<C>, pool: &Pool, stream: &TcpStream, client: SocketAddr) -> Option<Begun> {
    let spec = pool.spec();
    match shared.establish(pool, &spec, client).await {
        Ok((upstream, choice)) => {
            // Without a local address the connection is dead.
            let first =
                if spec.send_proxy { proxy_protocol::header(client, stream.local_addr().ok()?) } else { vec![] };
            let session = pool.counters.backend(choice.backend, &choice.name).session();
            Some(Begun { upstream, session, first, rhythm: rhythm(&spec) })
        }
        Err(reason) => {
            pool.counters.refuse(reason);
            reset_on_close(stream);
            debug!(pool = spec.name, %client, reason = reason.label(), "refused");
            None
        }
    }
}
