//! `/api/v1/sandboxes/{id}/files`: one file into or out of a guest, streamed.

use super::Server;
use super::extract::{Caller, Params};
use super::refuse::{Answer, of_problem};
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderValue, StatusCode, header};
use perigee_agent_api::TunnelFrame;
use perigee_agent_api::wire::FRAME_BYTES_MAX;
use perigee_api::ProblemDocument;
use perigee_control::Tunnel;
use perigee_model::guest::Problem;
use perigee_model::limits::FILE_BYTES_MAX;
use perigee_model::{Code, Refusal};
use serde::Deserialize;
use utoipa::IntoParams;

/// Which file.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FileParams {
    /// Absolute path in the guest.
    pub path: String,
    /// Permission bits as a decimal number; 420 (0644) by default. Only for writing.
    pub mode: Option<u32>,
}

/// Writes a file into the guest. Nothing is there under this path until all of it is.
#[utoipa::path(put, path = "/api/v1/sandboxes/{id}/files", tag = "files", params(("id" = String, Path, description = "Id or name"), FileParams),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204), (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn put(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<FileParams>,
    request: Request,
) -> Answer {
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > FILE_BYTES_MAX) {
        return Err(too_large().into());
    }
    let mode = params.mode.unwrap_or(0o644);
    let mut tunnel = server.control.put_file(&caller.who, &id, &params.path, mode, &caller.cause()).await?;
    send(&mut tunnel, request.into_body()).await?;
    match tunnel.rx.recv().await {
        Some(TunnelFrame::End) => Ok(StatusCode::NO_CONTENT.into_response()),
        Some(TunnelFrame::Failed(problem)) => Err(of_problem(&problem).into()),
        Some(_) | None => Err(broken().into()),
    }
}

async fn send(tunnel: &mut Tunnel, body: Body) -> Result<(), Refusal> {
    let mut bytes = body.into_data_stream();
    let mut sent = 0u64;
    while let Some(chunk) = bytes.next().await {
        let Ok(chunk) = chunk else {
            let problem = Problem::new(Code::BadRequest, "the upload broke off");
            drop(tunnel.tx.send(TunnelFrame::Failed(problem)).await);
            return Err(Refusal::new(Code::BadRequest, "the upload broke off"));
        };
        sent += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        if sent > FILE_BYTES_MAX {
            drop(tunnel.tx.send(TunnelFrame::Failed(Problem::new(Code::TooLarge, "the file is too large"))).await);
            return Err(too_large());
        }
        for piece in chunk.chunks(FRAME_BYTES_MAX) {
            if tunnel.tx.send(TunnelFrame::Data(piece.to_vec())).await.is_err() {
                // The other end has said why, or is gone: the caller reads it.
                return Ok(());
            }
        }
    }
    drop(tunnel.tx.send(TunnelFrame::End).await);
    Ok(())
}

/// Reads a file of the guest.
#[utoipa::path(get, path = "/api/v1/sandboxes/{id}/files", tag = "files", params(("id" = String, Path, description = "Id or name"), FileParams),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn get(
    State(server): State<Server>,
    caller: Caller,
    Path(id): Path<String>,
    Params(params): Params<FileParams>,
) -> Answer {
    let mut tunnel = server.control.get_file(&caller.who, &id, &params.path).await?;
    let first = match tunnel.rx.recv().await {
        Some(TunnelFrame::Failed(problem)) => return Err(of_problem(&problem).into()),
        Some(frame) => frame,
        None => return Err(broken().into()),
    };
    let frames = futures::stream::unfold((tunnel, Some(first)), async |(mut tunnel, first)| {
        let frame = match first {
            Some(frame) => Some(frame),
            None => tunnel.rx.recv().await,
        }?;
        Some((frame, (tunnel, None)))
    });
    Ok(body_of(frames, |frame| match frame {
        TunnelFrame::Data(bytes) => Piece::Bytes(Bytes::from(bytes)),
        TunnelFrame::End => Piece::End,
        TunnelFrame::Stdout(_)
        | TunnelFrame::Stderr(_)
        | TunnelFrame::Started
        | TunnelFrame::Ended(_)
        | TunnelFrame::Failed(_)
        | TunnelFrame::Signal(_) => Piece::Broken,
    }))
}

/// What a frame is for a body.
pub enum Piece {
    /// Some of it.
    Bytes(Bytes),
    /// All of it was sent.
    End,
    /// It cannot go on.
    Broken,
}

/// A body out of frames. A tunnel that breaks off, or a frame that says so, breaks the body off:
/// the client sees an incomplete transfer, never a short file that looks whole.
pub fn body_of(
    frames: impl Stream<Item = TunnelFrame> + Send + 'static,
    piece: impl Fn(TunnelFrame) -> Piece + Send + Sync + 'static,
) -> Response {
    let pieces = frames.map(Some).chain(futures::stream::once(async { None }));
    let bytes = pieces.scan(false, move |done, frame| {
        let next = match frame.map(&piece) {
            _ if *done => None,
            Some(Piece::Bytes(bytes)) => Some(Ok(bytes)),
            Some(Piece::End) => {
                *done = true;
                None
            }
            Some(Piece::Broken) | None => {
                *done = true;
                Some(Err(std::io::Error::other("the channel into the guest broke")))
            }
        };
        std::future::ready(next)
    });
    let mut response = Body::from_stream(bytes).into_response();
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn too_large() -> Refusal {
    Refusal::new(Code::TooLarge, format!("a file has at most {FILE_BYTES_MAX} bytes"))
}

fn broken() -> Refusal {
    Refusal::new(Code::ChannelBroken, "the channel into the guest broke; try again")
}
