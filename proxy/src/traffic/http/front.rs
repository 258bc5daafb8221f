//! One client's HTTP connection, from accept to close: which version it speaks, and request after request.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use flow::{PinKey, PoolSpec};
use pingora::{
    apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions, ServerApp},
    protocols::{
        Stream,
        http::{ServerSession, v2::server::H2Options},
    },
    proxy::HttpProxy,
    server::configuration::ServerConf,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{sleep_until, timeout},
};
use tracing::debug;

use super::{
    gateway::Gateway,
    head::{self, Head, NoHead},
    stream::{Client, ClientStream, Wire},
};
use crate::{
    choice::Chooser,
    traffic::{
        limits::{self, Limits},
        pool::{Admitted, millis, rhythm},
        tunnel::{Activity, Alarm},
        upstream::Shared,
    },
};

/// The HTTP proxy of one worker, with the idle connections to backends that it keeps.
pub struct Front<C: Chooser> {
    proxy: Arc<HttpProxy<Gateway<C>>>,
    limits: Limits,
    /// True once the instance drains.
    draining: watch::Receiver<bool>,
}

impl<C: Chooser> Front<C> {
    /// The proxy of one worker; `draining` says when no more requests are to follow on open connections.
    pub fn new(shared: &Arc<Shared<C>>, limits: Limits, draining: watch::Receiver<bool>) -> Self {
        let conf = ServerConf {
            // Backends are reached in the clear, so no authority is trusted. Without a file pingora looks for the
            // system's bundle, and panics where there is none.
            ca_file: Some("/dev/null".to_owned()),
            threads: 1,
            upstream_keepalive_pool_size: limits::BACKEND_CONNECTIONS_KEPT,
            max_retries: limits::REQUEST_TRIES_MAX,
            ..ServerConf::default()
        };
        let mut proxy = HttpProxy::new(Gateway::new(Arc::clone(shared), limits), Arc::new(conf));
        let mut options = HttpServerOptions::default();
        options.h2c = true;
        options.h2_idle_timeout = Some(limits.keepalive_timeout);
        proxy.server_options = Some(options);
        let mut h2 = H2Options::default();
        h2.max_concurrent_streams(limits.h2_streams);
        h2.max_header_list_size(limits.head_bytes.try_into().unwrap_or(u32::MAX));
        proxy.h2_options = Some(h2);
        proxy.handle_init_modules();
        Self { proxy: Arc::new(proxy), limits, draining }
    }

    /// Serves `stream`, which came from `client` and was admitted. The client's pin is refreshed while it is open.
    pub async fn serve(&self, shared: &Shared<C>, admitted: &Admitted, stream: TcpStream, client: SocketAddr) {
        let spec = admitted.pool().spec();
        let key = PinKey::new(admitted.pool().id, client.ip());
        let wire = Arc::new(Wire { activity: Activity::new(), upgrading: AtomicBool::new(false) });
        let owner = Client { pool: Arc::clone(admitted.pool()), address: client, wire: Arc::clone(&wire) };
        let stream = match ClientStream::new(stream, owner) {
            Ok(stream) => stream,
            Err(error) => return debug!(%client, %error, "no place for an HTTP connection"),
        };
        let mut alarm = Alarm::set(rhythm(&spec));
        let mut next = alarm.next();
        let mut connection = std::pin::pin!(self.connection(stream, spec));
        loop {
            tokio::select! {
                biased;
                () = &mut connection => return,
                () = sleep_until(next) => {}
            }
            if wire.upgrading.load(Ordering::Relaxed) {
                alarm.moved_at(wire.activity.last());
            } else {
                // Between requests and within them other timeouts hold.
                alarm.moved();
            }
            match alarm.rang(|| shared.chooser.touch(&key)) {
                Some(again) => next = again,
                None => return debug!(%client, "nothing moved on an upgraded connection"),
            }
        }
    }

    async fn connection(&self, mut stream: ClientStream, spec: Arc<PoolSpec>) {
        match self.next_head(&mut stream, self.limits.first_byte_timeout).await {
            Ok(Head::Http1(head)) => self.http1(Box::new(stream), head, spec).await,
            Ok(Head::Http2(preface)) => {
                stream.unread(preface);
                self.proxy.process_new(Box::new(stream), &self.draining).await;
            }
            Err(no_head) => answer(&mut stream, no_head).await,
        }
    }

    /// Request after request, as long as both sides want.
    async fn http1(&self, mut stream: Stream, mut head: bytes::BytesMut, spec: Arc<PoolSpec>) {
        let mut settings: Option<HttpPersistentSettings> = None;
        loop {
            let mut session = ServerSession::new_http1(stream);
            session.set_keepalive(Some(self.limits.keepalive_timeout.as_secs()));
            if let Some(settings) = settings.take() {
                settings.apply_to_session(&mut session);
            }
            session.set_read_timeout(Some(millis(spec.idle_timeout_ms)));
            session.set_write_timeout(Some(self.limits.write_timeout));
            session.set_total_drain_timeout(Some(limits::BODY_DRAIN_TIMEOUT));
            session.set_pipelined_prefix(head);
            let Some(reused) = self.proxy.process_new_http(session, &self.draining).await else { return };
            (stream, settings) = reused.consume();
            head = match self.next_head(&mut *stream, self.limits.keepalive_timeout).await {
                Ok(Head::Http1(head)) => head,
                Ok(Head::Http2(_)) => return,
                Err(no_head) => return answer(&mut *stream, no_head).await,
            };
        }
    }

    /// The next head; a connection that waits for one ends when the instance drains.
    async fn next_head<S: AsyncRead + Unpin + ?Sized>(
        &self,
        stream: &mut S,
        patience: std::time::Duration,
    ) -> Result<Head, NoHead> {
        let mut draining = self.draining.clone();
        let mut reading = std::pin::pin!(head::read(stream, patience, &self.limits));
        tokio::select! {
            biased;
            head = &mut reading => head,
            _ = draining.wait_for(|draining| *draining) => Err(NoHead::Gone),
        }
    }
}

/// Tells the client what was wrong, if it is to be told, and ends the connection so that it can be read.
async fn answer<S: AsyncRead + AsyncWrite + Unpin + ?Sized>(stream: &mut S, no_head: NoHead) {
    let NoHead::Refused { status, reason } = no_head else { return };
    let phrase = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("");
    let length = reason.len() + 1;
    let text = format!(
        "HTTP/1.1 {status} {phrase}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{reason}\n"
    );
    let ending = async {
        stream.write_all(text.as_bytes()).await?;
        stream.shutdown().await?;
        // Closing with bytes unread would reset the connection, and the answer with it.
        tokio::io::copy(&mut stream.take(limits::ERROR_DRAIN_BYTES), &mut tokio::io::sink()).await
    };
    match timeout(limits::ERROR_ANSWER_TIMEOUT, ending).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => debug!(%error, status, "an error answer was not taken"),
        Err(_elapsed) => debug!(status, "an error answer was not taken in time"),
    }
}
