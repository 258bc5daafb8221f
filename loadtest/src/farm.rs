//! The farm: backends that say their name, and that can be stopped, started, and cut off from single sources.

mod cut;
mod serve;
mod websocket;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::anycast::net::Net;
use crate::error::{Error, Result};
use crate::judge::BackendId;

pub use cut::{Cut, Cuts};
pub use serve::GIVE_BYTES_MAX;

/// A set of backends in this process, on a thread of their own: however busy the clients are, a check is answered in time.
#[derive(Debug)]
pub struct Farm {
    backends: Mutex<Vec<Arc<Backend>>>,
    thread: Thread,
    /// Dropping it ends the thread and with it every backend.
    _stop: oneshot::Sender<()>,
}

/// Where backends are served: the thread, and the networks of their hosts if they have some.
#[derive(Clone, Debug)]
struct Thread {
    handle: Handle,
    net: Option<Arc<Net>>,
}

impl Farm {
    /// A farm without backends, whose hosts are those of `net` if there is one.
    pub fn new(net: Option<Arc<Net>>) -> Result<Farm> {
        let failed = || Error::io("starting the farm's thread");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed())?;
        let thread = Thread { handle: runtime.handle().clone(), net };
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || {
            // It ends with the sender; nothing is ever sent.
            runtime.block_on(stopped).ok();
        };
        std::thread::Builder::new().name("farm".to_owned()).spawn(serve).map_err(failed())?;
        Ok(Farm { backends: Mutex::default(), thread, _stop: stop })
    }

    /// Adds a backend that answers to `name` and starts it. Port 0 lets the system choose.
    pub async fn add(&self, name: &str, listen: SocketAddr) -> Result<Arc<Backend>> {
        let listener = bind(listen, &self.thread)?;
        let address = listener.local_addr().map_err(Error::io("the address of a backend"))?;
        let backend = Arc::new(Backend {
            name: name.to_owned(),
            address,
            cuts: watch::Sender::new(Cuts::default()),
            thread: self.thread.clone(),
            running: tokio::sync::Mutex::new(None),
        });
        backend.run(listener).await?;
        lock(&self.backends).push(backend.clone());
        Ok(backend)
    }

    /// The backend of that name.
    pub fn backend(&self, name: &str) -> Option<Arc<Backend>> {
        lock(&self.backends).iter().find(|backend| backend.name == name).cloned()
    }

    /// All backends, in the order they were added.
    pub fn backends(&self) -> Vec<Arc<Backend>> {
        lock(&self.backends).clone()
    }

    /// The number of a backend's name.
    pub fn id(&self, name: &str) -> Option<BackendId> {
        let index = lock(&self.backends).iter().position(|backend| backend.name == name)?;
        u16::try_from(index).ok().map(BackendId)
    }

    /// The name behind a number.
    pub fn name(&self, id: BackendId) -> String {
        lock(&self.backends).get(usize::from(id.0)).map_or_else(|| format!("backend {}", id.0), |it| it.name.clone())
    }
}

/// One backend.
#[derive(Debug)]
pub struct Backend {
    /// What it says when asked who it is.
    pub name: String,
    /// Where it listens while it runs.
    pub address: SocketAddr,
    cuts: watch::Sender<Cuts>,
    thread: Thread,
    running: tokio::sync::Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    listener: Arc<TcpListener>,
    stop: oneshot::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Backend {
    /// Starts it again where it was; nothing happens when it runs.
    pub async fn start(&self) -> Result<()> {
        if self.running.lock().await.is_some() {
            return Ok(());
        }
        self.run(bind(self.address, &self.thread)?).await
    }

    /// Closes its listener and all its connections; on return every further connect is refused.
    pub async fn stop(&self) {
        let Some(running) = self.running.lock().await.take() else { return };
        drop(running.listener);
        // An error of either means that the accepting task is gone already, which is what is wanted.
        if running.stop.send(()).is_ok() {
            running.accepting.await.ok();
        }
    }

    /// Whether it listens.
    pub async fn is_running(&self) -> bool {
        self.running.lock().await.is_some()
    }

    /// Cuts one source off: what it has open is reset, what it tries from now on meets `cut`.
    pub async fn cut(&self, source: IpAddr, cut: Cut) -> Result<()> {
        self.change_cuts(|cuts| cuts.set(source, cut)).await
    }

    /// Drops every packet from everyone, as a host that has lost its network does.
    pub async fn blackhole(&self) -> Result<()> {
        self.change_cuts(|cuts| cuts.everyone = true).await
    }

    /// Serves everyone again.
    pub async fn heal(&self) -> Result<()> {
        self.change_cuts(|cuts| *cuts = Cuts::default()).await
    }

    async fn change_cuts(&self, change: impl FnOnce(&mut Cuts)) -> Result<()> {
        let running = self.running.lock().await;
        self.cuts.send_modify(change);
        match running.as_ref() {
            Some(running) => self.cuts.borrow().apply(SockRef::from(&*running.listener)),
            None => Ok(()),
        }
    }

    async fn run(&self, listener: TcpListener) -> Result<()> {
        let listener = Arc::new(listener);
        self.cuts.borrow().apply(SockRef::from(&*listener))?;
        let (stop, stopped) = oneshot::channel();
        let accepting = self.thread.handle.spawn(accept(
            listener.clone(),
            self.name.clone().into(),
            self.cuts.subscribe(),
            stopped,
        ));
        *self.running.lock().await = Some(Running { listener, stop, accepting });
        Ok(())
    }
}

/// Takes connections until told to stop, then drops the listener and every connection before it ends.
async fn accept(
    listener: Arc<TcpListener>,
    name: Arc<str>,
    cuts: watch::Receiver<Cuts>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    if connections.len() < CONNECTIONS_MAX {
                        connections.spawn(attend(stream, peer.ip(), name.clone(), cuts.clone()));
                    }
                }
                // Out of file descriptors, most likely: wait a little instead of spinning.
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
    drop(listener);
    connections.shutdown().await;
}

/// Serves one connection until it ends or its source is cut off.
async fn attend(mut stream: TcpStream, source: IpAddr, name: Arc<str>, mut cuts: watch::Receiver<Cuts>) {
    let served = async {
        // The far end may vanish at any time; that is its business and ends this connection only.
        serve::connection(&mut stream, source, &name).await.ok();
    };
    let cut = tokio::select! {
        () = served => false,
        _ = cuts.wait_for(|cuts| cuts.covers(source)) => true,
    };
    if cut {
        // Linger zero makes the close a reset; when it cannot be set the close is an ordinary one.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok();
    }
}

fn bind(address: SocketAddr, thread: &Thread) -> Result<TcpListener> {
    let socket = match &thread.net {
        Some(net) => net.at_server(address, || listen(address))?,
        None => listen(address)?,
    };
    // A listener belongs to the thread that serves it.
    let _entered = thread.handle.enter();
    TcpListener::from_std(socket.into()).map_err(Error::io(format!("listening on {address}")))
}

fn listen(address: SocketAddr) -> Result<Socket> {
    let tried = || format!("listening on {address}");
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))
        .map_err(Error::io(tried()))?;
    socket.set_reuse_address(true).map_err(Error::io(tried()))?;
    socket.bind(&address.into()).map_err(Error::io(tried()))?;
    socket.listen(BACKLOG).map_err(Error::io(tried()))?;
    Ok(socket)
}

/// The lock of a plain table; a panic elsewhere leaves such a table whole.
fn lock<T>(table: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    table.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

const BACKLOG: i32 = 4096;
/// One backend serves so many connections at once; more are closed.
const CONNECTIONS_MAX: usize = 16_384;
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
