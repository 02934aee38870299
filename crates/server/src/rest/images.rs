//! `/api/v1/images`.

use super::extract::{Body, Caller, Params};
use super::once::once;
use super::page::Paging;
use super::refuse::Answer;
use super::sandboxes::fell;
use super::{Server, tasks, views};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use perigee_api::{ImageRequest, ImageView, Page, ProblemDocument, TaskView};
use perigee_model::{Image, Name, Refusal, TaskState};
use serde::Deserialize;
use utoipa::IntoParams;

/// Which page of images.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Objects on the page, 1 to 1000; 100 by default.
    pub limit: Option<usize>,
    /// From the page before.
    pub page_token: Option<String>,
}

/// Images, oldest first.
#[utoipa::path(get, path = "/api/v1/images", tag = "images", params(ListParams),
    responses((status = 200, body = Page<ImageView>), (status = "4XX", body = ProblemDocument)))]
pub async fn list(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Answer<Json<Page<ImageView>>> {
    let paging = Paging::read("images".to_owned(), params.limit, params.page_token.as_deref())?;
    let images = server.control.list_images(&caller.who, paging.span())?;
    Ok(Json(paging.page(images, |i| i.id, |i| views::image(i))))
}

/// Builds an image: 202 with the task, or, with `Prefer: wait`, 201 with the ready image.
#[utoipa::path(post, path = "/api/v1/images", tag = "images", request_body = ImageRequest,
    responses((status = 201, body = ImageView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn build(State(server): State<Server>, caller: Caller, body: Body<ImageRequest>) -> Answer {
    let name = Name::parse(&body.value.name).map_err(|fault| Refusal::field("name", fault.to_string()))?;
    let recipe = body.value.recipe;
    once(&server, &caller, (Method::POST, "/api/v1/images"), &body.bytes, async |cause| {
        let (image, task) = server.control.build_image(&caller.who, name, &recipe, &cause).await?;
        let Some(wait) = caller.wait else { return Ok(tasks::accepted(&task)) };
        let task = server.control.wait_task(task.id, wait).await?;
        match task.state {
            TaskState::Succeeded => {
                let image = server.control.view().image(image.id).unwrap_or(image);
                Ok(object(&image, StatusCode::CREATED))
            }
            TaskState::Pending | TaskState::Running => Ok(tasks::accepted(&task)),
            TaskState::Failed | TaskState::Cancelled | TaskState::Dead => Err(fell(&task).into()),
        }
    })
    .await
}

/// One image by id or name.
#[utoipa::path(get, path = "/api/v1/images/{id}", tag = "images", params(("id" = String, Path, description = "Id or name")),
    responses((status = 200, body = ImageView), (status = 304), (status = "4XX", body = ProblemDocument)))]
pub async fn get(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    let image = server.control.find_image(&caller.who, &id)?;
    if caller.if_none_match.as_deref() == Some(tag(&image).as_str()) {
        return Ok(StatusCode::NOT_MODIFIED.into_response());
    }
    Ok(object(&image, StatusCode::OK))
}

/// Forgets an image, and its bytes when nothing else needs them.
#[utoipa::path(delete, path = "/api/v1/images/{id}", tag = "images", params(("id" = String, Path, description = "Id or name")),
    responses((status = 204), (status = "4XX", body = ProblemDocument)))]
pub async fn delete(State(server): State<Server>, caller: Caller, Path(id): Path<String>) -> Answer {
    server.control.delete_image(&caller.who, &id, caller.revision(), &caller.cause()).await?;
    sweep(&server);
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Removes blobs that no image and no guest needs. What cannot be removed now is next time.
pub fn sweep(server: &Server) {
    let needed = server.control.needed_digests();
    let Ok(blobs) = server.blobs.list() else { return };
    for blob in blobs.into_iter().filter(|b| !needed.contains(&b.digest)) {
        if let Err(error) = server.blobs.remove(&blob.digest) {
            tracing::warn!(%error, digest = %blob.digest, "a blob could not be removed");
        }
    }
}

fn tag(image: &Image) -> String {
    format!("\"{}\"", image.revision)
}

fn object(image: &Image, status: StatusCode) -> Response {
    let mut response = (status, Json(views::image(image))).into_response();
    if let Ok(tag) = HeaderValue::from_str(&tag(image)) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}
