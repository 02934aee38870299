//! The program's two verbs.

use crate::config::{Config, Join, StreamMode};
use crate::{driver, log, measure};
use anyhow::Context as _;
use perigee_agent::enrol::{self, EnrolError, JoinToken};
use perigee_agent::frames::FrameUplink;
use perigee_agent::home::Home;
use perigee_agent::identity::{CurrentIdentity, Identity, IdentityDir};
use perigee_agent::local::Listener;
use perigee_agent::tls::ServerUrl;
use perigee_agent::uplink::grpc::GrpcUplink;
use perigee_agent::uplink::ws::WsUplink;
use perigee_agent::watch::SharedSheet;
use perigee_agent::{
    Agent, Budget, CachedParts, DirJournal, DirSpool, Health, Journal, Recipes, Uplink, UplinkError, Uses, web,
};
use perigee_blobs::BlobDir;
use perigee_clock::Clock;
use perigee_hypervisor::Hypervisor;
use perigee_images::{BaseBuild, KernelSource};
use perigee_model::Labels;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// A control plane that is away is asked again after this, with jitter.
const JOIN_AGAIN: Duration = Duration::from_secs(1);

/// Makes this machine a host.
///
/// # Errors
/// When it is one already, the token is bad, or the control plane refuses.
pub async fn join(order: Join) -> anyhow::Result<()> {
    let home = Home::open(&order.data_dir, None, &Clock::real())?;
    log::set_instance(home.instance.as_str());
    enrol_here(&home, &order.server, &token_in(&order.token_file)?).await?;
    home.keep_server(&order.server.to_string())?;
    Ok(())
}

fn token_in(file: &Path) -> anyhow::Result<JoinToken> {
    let text = std::fs::read_to_string(file);
    Ok(text.with_context(|| format!("{} cannot be read", file.display()))?.parse()?)
}

async fn enrol_here(home: &Home, server: &ServerUrl, token: &JoinToken) -> Result<Identity, EnrolError> {
    let hostname = perigee_probe::machine().map(|m| m.hostname).unwrap_or_default();
    let identity = enrol::join(server, token, &IdentityDir::of(home.path()), &hostname, &Labels::new()).await?;
    tracing::info!(host = %identity.host, server = %server, "joined");
    Ok(identity)
}

/// Runs the agent until SIGTERM.
///
/// # Errors
/// When it cannot start, or ends by itself.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let clock = Clock::real();
    let home = Home::open(&config.data_dir, config.instance.clone(), &clock)?;
    log::set_instance(home.instance.as_str());
    let cancel = CancellationToken::new();
    tokio::spawn(end_on_signal(cancel.clone())?);
    let health = Arc::new(Health::default());
    let listener = web::bind(config.health).await?;
    let scraped = web::bind(config.metrics).await?;
    let local = local(&config, &home).await?;
    tell(&home, &listener, &scraped, &local)?;
    let pages = web::health_pages(health.clone(), home.token.clone());
    let pages = tokio::spawn(web::serve(listener, pages, cancel.clone()));
    let sheets: [Arc<SharedSheet>; 2] = Default::default();
    let [node, guests] = sheets.clone();
    tokio::spawn(web::serve(scraped, web::metrics_pages(node, guests.clone()), cancel.clone()));

    let (server, identity) = tokio::select! {
        known = identity(&config, &home, &clock, &health) => known?,
        () = cancel.cancelled() => {
            home.forget_endpoints();
            return Ok(());
        }
    };
    let host = identity.host;
    tracing::info!(%host, %server, pid = std::process::id(), "starting");
    let current = Arc::new(CurrentIdentity::new(identity));
    let folder = IdentityDir::of(home.path());
    let fresh = tokio::spawn(enrol::keep_fresh(server.clone(), folder, current.clone(), clock.clone(), health.clone()));

    let journal: Arc<dyn Journal> = Arc::new(DirJournal::open(home.path().join("journal"))?);
    let chosen = driver::choose(&config, &home, &clock, journal.as_ref()).await?;
    let (uplink, frames) = uplinks(config.stream_mode, server, current);
    let parts = parts(&config, &home, &clock, &uplink, (&journal, &chosen.drivers))?;
    let about = measure::About {
        config: &config,
        home: &home,
        host,
        clock: &clock,
        uplink: frames,
        health: health.clone(),
        libvirt: chosen.libvirt,
        cache: parts.tally(),
    };
    let measuring = about.start(sheets, &chosen.drivers)?;
    let agent = Agent {
        host,
        clock,
        describe: driver::describe(home.path().to_owned(), chosen.drivers.clone(), &chosen.missing),
        drivers: chosen.drivers,
        journal,
        spool: Arc::new(DirSpool::open(home.path().join("spool"))?),
        parts,
        uplink,
        builder: Arc::new(Recipes::new(base(&config, &home))),
        cards: driver::cards(&config, &home),
        measured: guests,
        health,
        local: local.listeners,
        boots_in_flight_max: config.boots,
        look_every: config.look_every,
    };
    let ended = agent.run(cancel.clone()).await;
    cancel.cancel();
    fresh.abort();
    measuring.stop();
    let _ = pages.await;
    home.forget_endpoints();
    Ok(ended.inspect(|()| tracing::info!("stopped; guests live on"))?)
}

/// The parts of images that are kept for guests.
fn parts(
    config: &Config,
    home: &Home,
    clock: &Clock,
    uplink: &Arc<dyn Uplink>,
    (journal, drivers): (&Arc<dyn Journal>, &[Arc<dyn Hypervisor>]),
) -> anyhow::Result<Arc<CachedParts>> {
    let uses = Uses { journal: journal.clone(), drivers: drivers.to_vec() };
    let blobs = BlobDir::at(home.path().join(driver::CACHE))?;
    let budget = Budget { dir: home.path().to_owned(), reserve: config.reserve, cache_bytes: config.cache_bytes };
    let parts = Arc::new(CachedParts::new(blobs, uplink.clone(), clock.clone(), budget, uses));
    let tidied = parts.clone();
    tokio::spawn(async move { tidied.tidy().await });
    Ok(parts)
}

/// How this host builds images.
fn base(config: &Config, home: &Home) -> BaseBuild {
    let mut base = BaseBuild::new(home.path().join("build"), &config.guest_binary);
    if let Some(package) = &config.kernel_deb {
        base.kernel = KernelSource::Package(package.clone());
    }
    base
}

fn tell(home: &Home, health: &TcpListener, metrics: &TcpListener, local: &Local) -> anyhow::Result<()> {
    Ok(home.tell_endpoints(&[
        ("health", format!("http://{}", health.local_addr()?)),
        ("metrics", format!("http://{}/metrics", metrics.local_addr()?)),
        ("local", local.address.clone()),
        ("socket", local.socket.display().to_string()),
    ])?)
}

/// Where this host's own users ask for guests.
struct Local {
    listeners: Vec<Arc<Listener>>,
    address: String,
    socket: PathBuf,
}

async fn local(config: &Config, home: &Home) -> anyhow::Result<Local> {
    let socket = driver::local_socket(config, home);
    let unix = Listener::unix(&socket).with_context(|| format!("{} cannot be made", socket.display()))?;
    let listener = web::bind(config.local).await?;
    let address = format!("http://{}", listener.local_addr()?);
    let tcp = Listener::Tcp { listener, token: home.token.clone() };
    Ok(Local { listeners: vec![Arc::new(unix), Arc::new(tcp)], address, socket })
}

/// One way to the control plane, for the link and for frames.
fn uplinks(
    mode: StreamMode,
    server: ServerUrl,
    identity: Arc<CurrentIdentity>,
) -> (Arc<dyn Uplink>, Arc<dyn FrameUplink>) {
    match mode {
        StreamMode::Grpc => {
            let uplink = Arc::new(GrpcUplink::new(server, identity));
            (uplink.clone(), uplink)
        }
        StreamMode::Ws => {
            let uplink = Arc::new(WsUplink::new(server, identity));
            (uplink.clone(), uplink)
        }
    }
}

/// Who we are; joins first when we are nobody yet.
async fn identity(
    config: &Config,
    home: &Home,
    clock: &Clock,
    health: &Health,
) -> anyhow::Result<(ServerUrl, Identity)> {
    let known = IdentityDir::of(home.path()).load()?;
    let kept = home.server().and_then(|url| url.parse().ok());
    let server = config.server.clone().or(kept);
    let server = server.context("the control plane is not known: give --server https://HOST:8443, or join first")?;
    home.keep_server(&server.to_string())?;
    if let Some(identity) = known {
        return Ok((server, identity));
    }
    let token_file = config.token_file.as_deref();
    let token_file = token_file.context("this machine has not joined: give --token-file, or join first")?;
    let token = token_in(token_file)?;
    loop {
        match enrol_here(home, &server, &token).await {
            Ok(identity) => return Ok((server, identity)),
            Err(EnrolError::Uplink(UplinkError::Away(why))) => {
                tracing::warn!(%why, "not joined, once more");
                health.set("link", false, format!("not joined: {why}"));
                tokio::time::sleep(JOIN_AGAIN + clock.jitter(JOIN_AGAIN)).await;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

fn end_on_signal(cancel: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancel.cancel();
    })
}
