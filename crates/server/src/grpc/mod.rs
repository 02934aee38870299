//! The agent link: gRPC over TLS 1.3, certificates checked against our own authority. Enrolment and
//! renewal are open without a client certificate; everything else needs one. Who chooses HTTP/1.1
//! in the handshake speaks WebSocket instead ([`crate::ws`]).

mod enrolment;
mod link;
mod listen;

use crate::authority::{Authority, host_of};
use crate::chunks::Vault;
use crate::ws;
use perigee_agent_api::wire::link::enrolment_server::EnrolmentServer;
use perigee_agent_api::wire::link::link_server::LinkServer;
use perigee_blobs::BlobDir;
use perigee_control::Control;
use perigee_control::watch::Watching;
use perigee_model::limits::LINK_MESSAGE_BYTES_MAX;
use perigee_model::{Code, HostId, Kind, Refusal};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status};

/// Bytes of overhead that a message's frame may add.
const ENVELOPE_SLACK: usize = 64 << 10;

/// Serves the agent link until cancelled.
///
/// # Errors
/// When TLS cannot be set up or the listener fails.
pub async fn serve(
    listener: tokio::net::TcpListener,
    (control, watching): (Control, Watching),
    (blobs, vault): (BlobDir, Vault),
    authority: Arc<Authority>,
    addresses: Vec<IpAddr>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let tls = listen::tls(&authority, &addresses)?;
    let (incoming, sockets) = listen::incoming(listener, tls, cancel.clone());
    let link_of_sockets = ws::Parts {
        control: control.clone(),
        watching: watching.clone(),
        blobs: blobs.clone(),
        vault: vault.clone(),
        cancel: cancel.clone(),
    };
    let link =
        LinkServer::new(link::LinkRpc { control: control.clone(), watching, blobs, vault, cancel: cancel.clone() })
            .max_decoding_message_size(LINK_MESSAGE_BYTES_MAX + ENVELOPE_SLACK)
            .max_encoding_message_size(LINK_MESSAGE_BYTES_MAX + ENVELOPE_SLACK);
    let enrolment = EnrolmentServer::new(enrolment::EnrolmentRpc::new(control, authority))
        .max_decoding_message_size(ENVELOPE_SLACK);
    let calls = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .max_concurrent_streams(Some(1024))
        .initial_stream_window_size(Some(256 << 10))
        .initial_connection_window_size(Some(4 << 20))
        .add_service(link)
        .add_service(enrolment)
        .serve_with_incoming_shutdown(incoming, cancel.cancelled_owned());
    let (served, ()) = tokio::join!(calls, ws::serve(sockets, link_of_sockets));
    Ok(served?)
}

/// The host of a request's verified certificate, if it may speak.
fn host<T>(control: &Control, request: &Request<T>) -> Result<HostId, Status> {
    let chain = request.peer_certs().filter(|c| !c.is_empty());
    let named = chain.and_then(|c| host_of(&c[0]));
    let host =
        named.ok_or_else(|| status(&Refusal::new(Code::BadCertificate, "show the certificate of a joined host")))?;
    control.admit_host(host).map_err(|r| status(&r))?;
    Ok(host)
}

/// The one table from kind to gRPC status. The published code travels in the metadata.
fn status(refusal: &Refusal) -> Status {
    if let Some(cause) = &refusal.cause {
        tracing::error!(code = %refusal.code, cause = ?cause, "an agent was refused for an inner reason");
    }
    let code = match refusal.kind() {
        Kind::Invalid => tonic::Code::InvalidArgument,
        Kind::Unauthenticated => tonic::Code::Unauthenticated,
        Kind::Denied => tonic::Code::PermissionDenied,
        Kind::NotFound => tonic::Code::NotFound,
        Kind::Conflict => tonic::Code::FailedPrecondition,
        Kind::Exhausted => tonic::Code::ResourceExhausted,
        Kind::Unavailable => tonic::Code::Unavailable,
        Kind::Bug => tonic::Code::Internal,
    };
    let mut status = Status::new(code, format!("{} {}", refusal.code, refusal.shown));
    if let Ok(value) = refusal.code.number().parse() {
        status.metadata_mut().insert("perigee-code", value);
    }
    status
}
