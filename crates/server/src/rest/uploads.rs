//! `/api/v1/uploads`: bytes on their way to become an image, under their SHA-256.
//!
//! An upload that breaks off is asked for (`GET`) and gone on with (`PUT` with `offset`). Nothing starts
//! from it before an import has checked that the bytes come to their name.

use super::Server;
use super::extract::{Caller, Params};
use super::refuse::Answer;
use axum::Json;
use axum::extract::{Path, Request, State};
use axum::response::IntoResponse;
use bytes::Bytes;
use futures::StreamExt;
use http::{StatusCode, header};
use perigee_api::{ProblemDocument, UploadView};
use perigee_blobs::{BlobError, Partial};
use perigee_model::limits::{IMAGE_BYTES_MAX, UPLOADS_MAX};
use perigee_model::{Code, Digest, Refusal, Verb};
use serde::Deserialize;
use std::time::Duration;
use utoipa::IntoParams;

/// Written at once.
const BATCH_BYTES: usize = 1 << 20;
/// A sender that is silent for so long is gone.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Where the bytes belong.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UploadParams {
    /// The first byte of the body is this one of the whole, 0 by default: as many as are here already.
    pub offset: Option<u64>,
}

/// How much of an upload is here.
#[utoipa::path(get, path = "/api/v1/uploads/{sha256}", tag = "uploads", operation_id = "get_upload",
    params(("sha256" = String, Path, description = "What the whole comes to, 64 hex digits")),
    responses((status = 200, body = UploadView), (status = "4XX", body = ProblemDocument)))]
pub async fn get(State(server): State<Server>, caller: Caller, Path(sha256): Path<String>) -> Answer<Json<UploadView>> {
    caller.who.authorize(Verb::Operate)?;
    let digest = digest(&sha256)?;
    Ok(view(&digest, server.blobs.partial_bytes(&digest).unwrap_or(0)))
}

/// Sends bytes, or more of them. What came stays, however the sending ends.
#[utoipa::path(put, path = "/api/v1/uploads/{sha256}", tag = "uploads", operation_id = "put_upload",
    params(("sha256" = String, Path, description = "What the whole comes to, 64 hex digits"), UploadParams),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, body = UploadView), (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn put(
    State(server): State<Server>,
    caller: Caller,
    Path(sha256): Path<String>,
    Params(params): Params<UploadParams>,
    request: Request,
) -> Answer<Json<UploadView>> {
    caller.who.authorize(Verb::Operate)?;
    let digest = digest(&sha256)?;
    let offset = params.offset.unwrap_or(0);
    let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if offset.saturating_add(declared.unwrap_or(0)) > IMAGE_BYTES_MAX {
        return Err(too_large().into());
    }
    if server.blobs.partial_bytes(&digest).is_none() && server.blobs.partials().map_err(refused)? >= UPLOADS_MAX {
        let text = format!("{UPLOADS_MAX} uploads are under way; import or delete one");
        return Err(Refusal::new(Code::TooManyTasks, text).into());
    }
    let partial = server.blobs.partial(&digest).await.map_err(refused)?;
    if partial.offset() != offset {
        let text = format!("{} bytes are here: send what follows, with offset={0}", partial.offset());
        return Err(Refusal::field("offset", text).into());
    }
    let partial = taken(partial, request.into_body()).await?;
    Ok(view(&digest, partial.offset()))
}

/// Throws away what was sent.
#[utoipa::path(delete, path = "/api/v1/uploads/{sha256}", tag = "uploads", operation_id = "delete_upload",
    params(("sha256" = String, Path, description = "What the whole comes to, 64 hex digits")),
    responses((status = 204), (status = "4XX", body = ProblemDocument)))]
pub async fn delete(State(server): State<Server>, caller: Caller, Path(sha256): Path<String>) -> Answer {
    caller.who.authorize(Verb::Operate)?;
    let digest = digest(&sha256)?;
    if server.blobs.partial_bytes(&digest).is_some() {
        server.blobs.partial(&digest).await.and_then(Partial::discard).map_err(refused)?;
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn taken(mut partial: Partial, body: axum::body::Body) -> Result<Partial, Refusal> {
    let mut bytes = body.into_data_stream();
    let (mut batch, mut length) = (Vec::new(), 0);
    loop {
        let next = tokio::time::timeout(SILENCE_MAX, bytes.next()).await;
        let (piece, broken) = match next {
            Ok(Some(Ok(piece))) => (Some(piece), false),
            Ok(None) => (None, false),
            Ok(Some(Err(_))) | Err(_) => (None, true),
        };
        let is_end = piece.is_none();
        length += piece.as_ref().map_or(0, Bytes::len);
        batch.extend(piece);
        if partial.offset().saturating_add(length as u64) > IMAGE_BYTES_MAX {
            return Err(too_large());
        }
        if length >= BATCH_BYTES || is_end {
            partial = written(partial, std::mem::take(&mut batch)).await?;
            length = 0;
        }
        if broken {
            return Err(Refusal::new(Code::BadRequest, "the upload broke off; go on where it did"));
        }
        if is_end {
            return Ok(partial);
        }
    }
}

async fn written(mut partial: Partial, batch: Vec<Bytes>) -> Result<Partial, Refusal> {
    let writing = tokio::task::spawn_blocking(move || {
        batch.iter().try_for_each(|piece| partial.append(piece))?;
        Ok(partial)
    });
    let stopped = |error| Refusal::new(Code::ShuttingDown, "the control plane ends").because(error);
    writing.await.map_err(stopped)?.map_err(refused)
}

fn digest(sha256: &str) -> Result<Digest, Refusal> {
    Digest::parse(sha256).ok_or_else(|| Refusal::field("sha256", "an upload is named by 64 lower-case hex digits"))
}

fn view(digest: &Digest, bytes: u64) -> Json<UploadView> {
    Json(UploadView { sha256: digest.to_string(), bytes })
}

fn too_large() -> Refusal {
    Refusal::new(Code::TooLarge, format!("an image has at most {IMAGE_BYTES_MAX} bytes"))
}

fn refused(error: BlobError) -> Refusal {
    match error {
        BlobError::NoSpace(_) => Refusal::new(Code::DiskFull, "the control plane's disk is full").because(error),
        BlobError::Busy(_) => Refusal::new(Code::WriteConflict, "somebody else is sending the same bytes"),
        BlobError::NotFound(_) | BlobError::WrongDigest { .. } | BlobError::Io { .. } => {
            Refusal::new(Code::StoreDown, "the control plane's disk failed; try again").because(error)
        }
    }
}
