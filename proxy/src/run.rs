//! `rocinante run`: one instance, from its configuration to its last connection.
//!
//! Shutdown is designed: SIGTERM (or SIGINT) makes the instance not ready, withdraws its VIPs, hands its leaderships over,
//! waits until routers have turned away, stops accepting, lets open connections end for `drain_timeout`, and leaves. A
//! second signal cuts them at once.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use raftlog::net::Tls;
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::{JoinError, JoinSet},
};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use crate::{
    cli::RunArgs,
    config::{self, Config, Host, InstanceConfig, Loaded, VipConfig},
    grpc,
    metrics::Metrics,
    node::{Fleet, Node, certificates::Certificates},
    rest,
    traffic::{self, Traffic},
    vip::Vip,
};

/// Runs an instance until it is told to stop.
#[must_use]
pub fn run(args: RunArgs) -> ExitCode {
    let config = match config::check_file(&args.config) {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::FAILURE;
        }
    };
    start_logs();
    raise_descriptors();
    match start(&config, &args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(instance = args.instance, "{error}");
            ExitCode::FAILURE
        }
    }
}

type Failure = Box<dyn std::error::Error>;

fn start(config: &Config, args: &RunArgs) -> Result<(), Failure> {
    let label = args.instance.as_str();
    let instance = config.fleet.instance(label).ok_or_else(|| {
        let listed: Vec<&str> = config.fleet.instances.iter().map(|instance| instance.label.as_str()).collect();
        format!("{}: there is no instance {label}; it lists {}", args.config.display(), listed.join(", "))
    })?;
    let tls = config::load_tls(config, &args.config, label)?;
    let runtime =
        Builder::new_multi_thread().worker_threads(CONTROL_THREADS).thread_name("control").enable_all().build()?;
    let served = runtime.block_on(serve(&runtime, config, args, instance, tls));
    // What is left may wait for a disk that does not answer.
    runtime.shutdown_timeout(LEAVE);
    served
}

async fn serve(
    runtime: &Runtime,
    config: &Config,
    args: &RunArgs,
    instance: &InstanceConfig,
    tls: Option<Loaded>,
) -> Result<(), Failure> {
    let label = instance.label.as_str();
    let own = own_address(&instance.address).await?;
    // Signals are taken from the very start: a stop is never lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let hangup = signal(SignalKind::hangup())?;
    let key = |name: &str| format!("fleet.instance[{label}].{name}");
    let (grpc_address, grpc_key) = match args.grpc_listen {
        Some(address) => (address, "--grpc-listen".to_owned()),
        None => (SocketAddr::new(own, instance.grpc), key("grpc")),
    };
    let grpc_listener = listen(grpc_address, &grpc_key, PEERS).await?;
    let rest_listener = listen(SocketAddr::new(own, instance.rest), &key("rest"), REST).await?;
    let metrics_listener = listen(SocketAddr::new(own, instance.metrics), &key("metrics"), METRICS).await?;

    let metrics = Metrics::new(label)?;
    let data_dir = args.data_dir.clone().unwrap_or_else(|| config.fleet.data_dir.join(label));
    let tls = watch_certificates(tls, hangup, &metrics, runtime)?;
    let node = Node::start(config, label, &data_dir, own, tls, runtime.handle(), metrics.decisions())?;
    let fleet = node.fleet().clone();
    let peers = node.transport().connector();
    let data_path = traffic::Config { own, workers: 0, limits: config.fleet.limits.into(), peers };
    let traffic = Traffic::start(data_path, fleet.clone(), node.pools(), metrics.registry())?;
    watch_metrics(&metrics, &node, runtime)?;
    node.count_connections(Box::new(traffic.connections()));
    // After the ports and the data directory are this process's: a second one must not touch the VIPs of the first.
    let start_vip = |vip: &VipConfig| {
        Vip::start(vip, label, fleet.clone(), traffic.listeners(), traffic.pulse(), metrics.registry())
    };
    let vip = config.vip.as_ref().map(start_vip).transpose()?;
    if let Some(vip) = &vip {
        node.show_vip(Box::new(vip.status()));
    }

    let (stop, stopped) = watch::channel(false);
    let pushes = grpc::PushCounters::new()?;
    pushes.register(metrics.registry())?;
    let routes = grpc::routes(fleet.clone(), pushes).add_service(traffic.relay_service());
    let grpc = serve_grpc(grpc_listener, fleet.clone(), node.transport().clone(), routes, stopped.clone());
    let doors = rest::DoorCounters::family()?;
    metrics.registry().register(Box::new(doors.clone()))?;
    let door = |port| rest::DoorCounters::of(&doors, port);
    let rest = rest::serve(rest_listener, rest::router(fleet.clone()), door("rest"), until(stopped.clone()));
    let metrics = rest::serve(metrics_listener, metrics.router(), door("metrics"), until(stopped));
    let mut servers = JoinSet::new();
    servers.spawn(async { (PEERS, grpc.await).0 });
    servers.spawn(async { (REST, rest.await).0 });
    servers.spawn(async { (METRICS, metrics.await).0 });
    info!(
        instance = label,
        fleet = config.fleet.name,
        address = %own,
        grpc = %grpc_address,
        rest = instance.rest,
        metrics = instance.metrics,
        data_dir = %data_dir.display(),
        version = env!("CARGO_PKG_VERSION"),
        "started"
    );
    tokio::spawn(tell_difference(fleet.clone(), config.clone(), args.config.clone()));

    let stop_asked = fleet.stop_asked();
    let outcome = tokio::select! {
        () = either(&mut terminate, &mut interrupt) => Ok(()),
        () = stop_asked => Ok(()),
        Some(ended) = servers.join_next() => Err(lost_server(ended)),
    };
    info!(drain_timeout = ?config.fleet.drain_timeout, "stopping: a second signal cuts what is open");
    node.set_draining();
    let leave = async {
        let withdrawn = async {
            if let Some(vip) = &vip {
                vip.leave().await;
            }
        };
        tokio::join!(hand_over(&fleet), withdrawn);
        let drained = traffic.drain(config.fleet.drain_timeout).await;
        node.transport().shutdown().await;
        stop.send_replace(true);
        let ends = async { while servers.join_next().await.is_some() {} };
        if tokio::time::timeout(LEAVE, ends).await.is_err() {
            warn!("a server did not end in time");
        }
        tokio::task::spawn_blocking(move || node.stop()).await.map(|()| drained)
    };
    tokio::select! {
        left = leave => info!(cut = left?.cut, "stopped"),
        () = either(&mut terminate, &mut interrupt) => {
            // The log needs no farewell: what was acknowledged is stored.
            warn!("stopping at once");
            let drained = traffic.drain(Duration::ZERO).await;
            info!(cut = drained.cut, "stopped");
        }
    }
    outcome
}

/// A server that ends before it is told to is a fault: without it the instance would be half alive.
fn lost_server(ended: Result<&'static str, JoinError>) -> Failure {
    match ended {
        Ok(what) => format!("the server for {what} ended: stopping").into(),
        Err(error) => format!("a server failed: {error}: stopping").into(),
    }
}

/// Gives leaderships away, so that the fleet need not notice this instance's end by its silence.
async fn hand_over(fleet: &Fleet) {
    let deadline = tokio::time::Instant::now() + HAND_OVER;
    while fleet.leads_any().await && tokio::time::Instant::now() < deadline {
        fleet.hand_over().await;
        tokio::time::sleep(HAND_OVER / 10).await;
    }
}

async fn serve_grpc(
    listener: TcpListener,
    fleet: Fleet,
    transport: raftlog::net::Transport,
    routes: tonic::service::Routes,
    stopped: watch::Receiver<bool>,
) {
    let options = raftlog::net::Options::default();
    // An instance that an operator has cut off answers nobody, peers included.
    let gate = move |request: tonic::Request<()>| match fleet.is_cut_off() {
        true => Err(tonic::Status::unavailable("this instance was cut off by an operator: POST /startGrpc")),
        false => Ok(request),
    };
    let routes = routes.add_service(transport.service());
    let incoming = transport.incoming(listener, GRPC_CONNECTIONS_MAX, options.hello_timeout);
    let served = raftlog::net::server(&options)
        .layer(tonic::service::InterceptorLayer::new(gate))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, until(stopped))
        .await;
    if let Err(error) = served {
        error!(%error, "the gRPC server ended");
    }
}

/// Tells, once the fleet is known, where the file differs from what is committed.
async fn tell_difference(fleet: Fleet, config: Config, path: PathBuf) {
    let Some(pools) = fleet.committed_pools().await else { return };
    let differences = config::diff(&pools, &config.pools);
    if differences.is_empty() {
        return;
    }
    let lines: Vec<String> = differences.iter().map(ToString::to_string).collect();
    warn!(
        "{} differs from the committed pools, which are the truth:\n  {}\nto make the file the truth: rocinante apply --config {}",
        path.display(),
        lines.join("\n  "),
        path.display()
    );
}

/// The identity towards peers, kept as its files have it; plaintext is said aloud.
fn watch_certificates(
    tls: Option<Loaded>,
    mut hangup: Signal,
    metrics: &Metrics,
    runtime: &Runtime,
) -> Result<Option<Arc<Tls>>, Failure> {
    let Some(Loaded { tls, files, looks }) = tls else {
        warn!(
            "peers talk plaintext: they are not authenticated and their traffic is not encrypted, as the configuration \
             has no [fleet.tls]; rocinante pki makes certificates"
        );
        runtime.spawn(async move {
            // Nobody who sends it wants the process to end.
            while hangup.recv().await.is_some() {
                info!("SIGHUP: there are no certificates to be read again");
            }
        });
        return Ok(None);
    };
    let tls = Arc::new(tls);
    runtime.spawn(Certificates::new(Arc::clone(&tls), files, metrics.registry())?.keep(looks, hangup));
    Ok(Some(tls))
}

fn watch_metrics(metrics: &Metrics, node: &Node, runtime: &Runtime) -> Result<(), prometheus::Error> {
    let fleet = node.fleet().clone();
    metrics.watch(move || fleet.counters())?;
    metrics.watch_runtime("control", runtime.handle().clone());
    Ok(())
}

async fn own_address(host: &Host) -> Result<IpAddr, Failure> {
    match host {
        Host::Ip(address) => Ok(*address),
        Host::Name(name) => {
            let mut found = tokio::net::lookup_host((name.as_str(), 0))
                .await
                .map_err(|error| format!("the address {name} of this instance cannot be looked up: {error}"))?;
            Ok(found.next().ok_or_else(|| format!("{name} has no address"))?.ip())
        }
    }
}

async fn listen(address: SocketAddr, key: &str, what: &str) -> Result<TcpListener, String> {
    TcpListener::bind(address).await.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => ": is this instance running already, or another program on that port?",
            io::ErrorKind::AddrNotAvailable => ": this machine does not have that address",
            io::ErrorKind::PermissionDenied => ": ports below 1024 need CAP_NET_BIND_SERVICE",
            _ => "",
        };
        format!("cannot listen on {address} ({key}) for {what}: {error}{hint}")
    })
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, which is the end as well.
    stopped.wait_for(|stopped| *stopped).await.ok();
}

/// Logs go to standard error: `RUST_LOG` filters them, `ROCINANTE_LOG_FORMAT=json` makes each line an object.
fn start_logs() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = if std::env::var("ROCINANTE_LOG_FORMAT").is_ok_and(|format| format == "json") {
        logs.json().try_init()
    } else {
        logs.with_ansi(io::IsTerminal::is_terminal(&io::stderr())).with_target(false).try_init()
    };
    if let Err(error) = started {
        eprintln!("no logs: {error}");
    }
}

/// Takes as many descriptors as the system allows: each connection needs two, and two more while it is spliced.
fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, wanted) {
        warn!(%error, current = ?limit.current, "the limit of open files stays as it is");
    }
}

/// Threads for peers, APIs and health checks; traffic has its own.
const CONTROL_THREADS: usize = 2;

/// How long leaderships may take to be handed over.
const HAND_OVER: Duration = Duration::from_secs(1);

/// How long servers, and what is left after them, may take to end.
const LEAVE: Duration = Duration::from_secs(3);

/// What the listeners are for, as messages name it.
const PEERS: &str = "peers and the gRPC API";
const REST: &str = "the REST API";
const METRICS: &str = "metrics";

/// Most connections on the gRPC port.
const GRPC_CONNECTIONS_MAX: usize = 1024;
