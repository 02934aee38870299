//! The life of `perigeed`: open, serve, drain, close.

use crate::authority::Authority;
use crate::backups::Backups;
use crate::chunks::Vault;
use crate::config::Config;
use crate::grpc;
use crate::imports::Imports;
use crate::ingest_token::IngestTokens;
use crate::place::Place;
use crate::rest::{self, Parts, Requests, Server};
use anyhow::Context;
use axum::serve::ListenerExt;
use perigee_backups::Repository;
use perigee_blobs::BlobDir;
use perigee_clock::Clock;
use perigee_control::watch::Watching;
use perigee_control::{Cause, Control};
use perigee_model::limits::{DRAIN, IMAGE_BYTES_MAX};
use perigee_model::{Role, Tenant, Who};
use perigee_outbound::{Guard, Limits, Outbound};
use perigee_store::{SqlStore, Store};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The local agent's join token is renewed this often while that agent has not joined.
const LOCAL_TOKEN_EVERY: Duration = Duration::from_secs(1800);

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// When it cannot start, or its store cannot be closed.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let clock = Clock::real();
    let place = Place::open(&config.data_dir)?;
    let instance = place.instance(&clock)?;
    let store = open_store(&config, &place).await?;
    let epoch = store.begin_reign(&clock.uuid().to_string(), clock.now()).await?;
    let control = Control::open(clock.clone(), store.clone(), instance.clone(), epoch).await?;
    let authority = Arc::new(Authority::open(&config.data_dir, clock.clone())?);
    let blobs = BlobDir::at(place.path("blobs"))?;
    let vault = open_vault(&config, &place, &clock)?;

    let watching = open_series(&config, &control, &place).await?;

    let (http, agents) = listen(&config, &place).await?;
    let (http_at, agents_at) = (http.local_addr()?, agents.local_addr()?);
    let (http_url, agents_url) = (format!("http://{http_at}"), format!("https://{agents_at}"));

    let server = Server::new(Parts {
        control: control.clone(),
        watch: watching.clone(),
        blobs: blobs.clone(),
        catalogue: place.path("catalogue.toml"),
        hosts: config.host_names.clone(),
        agents_url: agents_url.clone(),
        authority_sha256: authority.sha256(),
        ingest_tokens: IngestTokens::open(&place, &instance, clock.clone())?,
        requests: Requests::default(),
        in_flight: Mutex::default(),
    });
    rest::sweep_blobs(&server);
    let cancel = CancellationToken::new();
    let kept = (blobs.clone(), vault.repository().clone());
    let brain = tokio::spawn(think(config.clone(), control.clone(), watching.clone(), kept, cancel.clone()));
    let addresses: Vec<IpAddr> = vec![agents_at.ip(), IpAddr::from([127, 0, 0, 1])];
    let brains = (control.clone(), watching);
    let link = tokio::spawn(grpc::serve(agents, brains, (blobs, vault), authority, addresses, cancel.clone()));
    let (app, _) = rest::router(server.clone());
    // Small messages follow each other both ways: waiting to merge them costs 40 ms each time.
    let http = http.tap_io(|socket| {
        if let Err(error) = socket.set_nodelay(true) {
            tracing::warn!(%error, "a connection stays slow");
        }
    });
    let rest = tokio::spawn({
        let cancel = cancel.clone();
        async move { axum::serve(http, app).with_graceful_shutdown(cancel.cancelled_owned()).await }
    });
    sign_in(&place, &control, &server, &http_url).await?;
    let endpoints = serde_json::json!({
        "http": http_url, "agents": agents_url, "pid": std::process::id(), "version": env!("CARGO_PKG_VERSION"),
    });
    place.write("endpoints.json", &endpoints.to_string())?;
    tracing::info!(program = "perigeed", version = env!("CARGO_PKG_VERSION"), %instance, epoch, http = http_url, agents = agents_url, "perigeed is ready");

    let ended = until_told(&place, &control, &server).await;
    place.remove("endpoints.json");
    cancel.cancel();
    let drained = tokio::time::timeout(DRAIN, async {
        drop(rest.await);
        drop(link.await);
        drop(brain.await);
    });
    if drained.await.is_err() {
        tracing::warn!("some requests did not end within {DRAIN:?}; they are cut off");
    }
    store.close().await;
    tracing::info!("perigeed ended");
    ended
}

/// Binds both addresses. A free port, once taken, is taken again at the next start if it can be:
/// agents and people come back to the address they know.
async fn listen(config: &Config, place: &Place) -> anyhow::Result<(TcpListener, TcpListener)> {
    let held = place.read("ports").unwrap_or_default();
    let mut held = held.split_whitespace().map(|port| port.parse::<u16>().unwrap_or(0));
    let (http_port, agents_port) = (held.next().unwrap_or(0), held.next().unwrap_or(0));
    let http = bind_again(config.listen, http_port).await.with_context(|| in_use("listen", config.listen))?;
    let agents = bind_again(config.agents, agents_port).await.with_context(|| in_use("agents", config.agents))?;
    place.write("ports", &format!("{} {}\n", http.local_addr()?.port(), agents.local_addr()?.port()))?;
    Ok((http, agents))
}

async fn bind_again(address: SocketAddr, port: u16) -> std::io::Result<TcpListener> {
    if address.port() == 0 && port != 0 {
        let known = SocketAddr::new(address.ip(), port);
        if let Ok(listener) = TcpListener::bind(known).await {
            return Ok(listener);
        }
    }
    TcpListener::bind(address).await
}

/// Works on the queue, on imports, on backups and on what is measured, until cancelled.
async fn think(
    config: Config,
    control: Control,
    watching: Watching,
    (blobs, repository): (BlobDir, Repository),
    cancel: CancellationToken,
) {
    let guard = Guard { allowed: config.outbound_allow };
    let outbound = Outbound::new(guard, Limits { bytes_max: IMAGE_BYTES_MAX, ..Limits::default() });
    let imports = Imports { control: control.clone(), blobs, outbound };
    let imports = async {
        if config.workers {
            let backups = Backups { control: control.clone(), repository };
            tokio::join!(imports.run(cancel.clone()), backups.run(cancel.clone()));
        }
    };
    tokio::join!(control.run(config.workers, cancel.clone()), watching.run(cancel.clone()), imports);
}

async fn open_series(config: &Config, control: &Control, place: &Place) -> anyhow::Result<Watching> {
    let (control, folder) = (control.clone(), place.path("series"));
    let settings = config.keep.settings(&config.data_dir);
    let opened = tokio::task::spawn_blocking(move || Watching::open(control, &folder, settings)).await?;
    opened.context("the series store cannot be opened")
}

/// The key is beside everything else that is private, wherever the backups are.
fn open_vault(config: &Config, place: &Place, clock: &Clock) -> anyhow::Result<Vault> {
    let clock = clock.clone();
    let opened = Repository::open(&config.backup_dir, place.path("backups.key"), move |bytes| clock.fill(bytes));
    Ok(Vault::new(opened.context("the repository of backups cannot be opened; choose another with --backup-dir")?))
}

async fn open_store(config: &Config, place: &Place) -> anyhow::Result<Arc<dyn Store>> {
    let opened = match &config.store {
        Some(url) => SqlStore::open_postgres(url).await,
        None => SqlStore::open_sqlite(&place.path("perigee.db")).await,
    };
    Ok(Arc::new(opened.context("the store cannot be opened")?))
}

/// Leaves `cli.toml` with a service token that works, and a join token for the local agent.
async fn sign_in(place: &Place, control: &Control, server: &Server, url: &str) -> anyhow::Result<()> {
    let held = place.read("token").filter(|token| control.authenticate(token.trim()).is_ok());
    let token = match held {
        Some(token) => token.trim().to_owned(),
        None => {
            let secret = control.mint_key("cli", Tenant::first(), Role::Admin).await?;
            place.write("token", &secret.0)?;
            secret.0
        }
    };
    let cli = format!("url = \"{url}\"\ntoken = \"{token}\"\n");
    place.write("cli.toml", &cli)?;
    local_token(place, control, server).await
}

/// A join token for the agent that `perigee up` starts, as long as it has not joined.
async fn local_token(place: &Place, control: &Control, server: &Server) -> anyhow::Result<()> {
    if place.path("agent/identity/cert.pem").exists() {
        place.remove("local.token");
        return Ok(());
    }
    let who = Who { tenant: Tenant::first(), actor: "perigee".to_owned(), role: Role::Admin };
    let (secret, _) = control.mint_join_secret(&who, None, &Cause::default()).await?;
    place.write("local.token", &rest::join_token(&server.authority_sha256, &secret.0))
}

async fn until_told(place: &Place, control: &Control, server: &Server) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tokens = tokio::time::interval(LOCAL_TOKEN_EVERY);
    tokens.tick().await;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = tokens.tick() => {
                if let Err(error) = local_token(place, control, server).await {
                    tracing::warn!(%error, "the local join token could not be renewed");
                }
            }
        }
    }
}

fn in_use(flag: &str, address: SocketAddr) -> String {
    format!("{address} cannot be bound; choose another with --{flag}, or stop what listens there")
}
