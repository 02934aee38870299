//! `/api/v1/images`.

use super::extract::{Body, Caller, Params};
use super::once::once;
use super::page::Paging;
use super::refuse::Answer;
use super::sandboxes::fell;
use super::{Server, catalogue, tasks, views};
use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Method, StatusCode, header};
use perigee_api::{ImageRequest, ImageView, Page, ProblemDocument, TaskView};
use perigee_model::{Checksum, Digest, DiskFormat, Image, Import, ImportFrom, Name, Recipe, Refusal, TaskState, Verb};
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

/// Makes an image: 202 with the task, or, with `Prefer: wait`, 201 with the ready image.
#[utoipa::path(post, path = "/api/v1/images", tag = "images", request_body = ImageRequest,
    responses((status = 201, body = ImageView), (status = 202, body = TaskView),
        (status = "4XX", body = ProblemDocument), (status = 503, body = ProblemDocument)))]
pub async fn create(State(server): State<Server>, caller: Caller, body: Body<ImageRequest>) -> Answer {
    caller.who.authorize(Verb::Operate)?;
    let name = Name::parse(&body.value.name).map_err(|fault| Refusal::field("name", fault.to_string()))?;
    let wanted = wanted(&server, body.value).await?;
    once(&server, &caller, (Method::POST, "/api/v1/images"), &body.bytes, async |cause| {
        let (image, task) = match wanted {
            Wanted::Recipe(recipe) => server.control.build_image(&caller.who, name, recipe, &cause).await?,
            Wanted::Import(import) => server.control.import_image(&caller.who, name, *import, &cause).await?,
        };
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

enum Wanted {
    Recipe(Recipe),
    Import(Box<Import>),
}

/// Where the image comes from; exactly one of the four.
async fn wanted(server: &Server, request: ImageRequest) -> Result<Wanted, Refusal> {
    let from = match (&request.recipe, &request.url, &request.upload, &request.catalogue) {
        (Some(name), None, None, None) => {
            let include = request.include.as_deref().unwrap_or_default();
            return Ok(Wanted::Recipe(Recipe::parse(name, request.kind.as_deref(), include)?));
        }
        _ if request.include.is_some() => {
            return Err(Refusal::field("include", "packages are included when an image is built: recipe is debian"));
        }
        _ if request.kind.is_some() => {
            return Err(Refusal::field("kind", "an image is built for a kind of guest: recipe is debian"));
        }
        (None, Some(url), None, None) => ImportFrom::Url(url.clone()),
        (None, None, Some(sha256), None) => {
            let digest = Digest::parse(sha256);
            ImportFrom::Upload(digest.ok_or_else(|| Refusal::field("upload", "64 lower-case hex digits"))?)
        }
        (None, None, None, Some(name)) => {
            let entry = catalogue::read(server).await?.remove(name);
            let unknown = || Refusal::field("catalogue", "the catalogue has no such name; see /api/v1/catalogue");
            let entry = entry.ok_or_else(unknown)?;
            return Ok(Wanted::Import(Box::new(entry.import())));
        }
        _ => return Err(Refusal::field("recipe", "say one of recipe, url, upload and catalogue")),
    };
    let sum = |text: &str| {
        let fault = "a checksum is sha256: and 64 hex digits, or sha512: and 128";
        Checksum::parse(text).ok_or_else(|| Refusal::field("checksum", fault))
    };
    let format = |text: &str| DiskFormat::parse(text).ok_or_else(|| Refusal::field("format", "raw, qcow2 or iso"));
    let arch = request.arch.unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    if !matches!(arch.as_str(), "x86_64" | "aarch64") {
        return Err(Refusal::field("arch", "x86_64 or aarch64"));
    }
    let import = Import {
        from,
        checksum: request.checksum.as_deref().map(sum).transpose()?,
        checksums_at: None,
        format: request.format.as_deref().map(format).transpose()?,
        arch,
    };
    match perigee_images::import::fault(&import) {
        Some(fault) => Err(Refusal::field("url", fault)),
        None => Ok(Wanted::Import(Box::new(import))),
    }
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
