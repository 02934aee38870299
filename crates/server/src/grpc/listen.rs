//! TLS for the agent link: TLS 1.3 only, client certificates wanted but not required, handshakes
//! bounded in time so that a silent peer holds nothing up.

use crate::authority::Authority;
use futures::Stream;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once; more wait in the kernel's queue.
const HANDSHAKES_MAX: usize = 64;

pub fn tls(authority: &Authority, addresses: &[IpAddr]) -> anyhow::Result<Arc<ServerConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let (chain, key) = authority.server_identity(addresses)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Connections that speak HTTP/2, and those that speak HTTP/1.1.
pub fn incoming(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    cancel: CancellationToken,
) -> (impl Stream<Item = std::io::Result<TlsStream<TcpStream>>>, mpsc::Receiver<TlsStream<TcpStream>>) {
    let (tx, rx) = mpsc::channel(HANDSHAKES_MAX);
    let (to_sockets, sockets) = mpsc::channel(HANDSHAKES_MAX);
    tokio::spawn(async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            () = accept(listener, TlsAcceptor::from(tls), tx, to_sockets) => {}
        }
    });
    (ReceiverStream::new(rx), sockets)
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    tx: mpsc::Sender<std::io::Result<TlsStream<TcpStream>>>,
    to_sockets: mpsc::Sender<TlsStream<TcpStream>>,
) {
    let slots = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let (socket, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, most likely: wait for some to be given back.
                tracing::warn!(%error, "an agent's connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, tx, to_sockets) = (acceptor.clone(), tx.clone(), to_sockets.clone());
        tokio::spawn(async move {
            let _slot = slot;
            drop(socket.set_nodelay(true));
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(socket)).await {
                Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"http/1.1") => {
                    drop(to_sockets.send(stream).await);
                }
                Ok(Ok(stream)) => drop(tx.send(Ok(stream)).await),
                Ok(Err(error)) => tracing::info!(%peer, %error, "a handshake failed"),
                Err(_) => tracing::info!(%peer, "a handshake took too long"),
            }
        });
    }
}
