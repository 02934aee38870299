//! `/api/v1/catalogue`: images by name that others publish.

use super::Server;
use super::extract::Caller;
use super::refuse::Answer;
use axum::Json;
use axum::extract::State;
use perigee_api::{CatalogueEntryView, Page, ProblemDocument};
use perigee_images::catalogue::{self, Catalogue, Entry};
use perigee_model::{Code, Refusal, Verb};

/// The catalogue, by name.
#[utoipa::path(get, path = "/api/v1/catalogue", tag = "images", operation_id = "catalogue",
    responses((status = 200, body = Page<CatalogueEntryView>), (status = "4XX", body = ProblemDocument)))]
pub async fn list(State(server): State<Server>, caller: Caller) -> Answer<Json<Page<CatalogueEntryView>>> {
    caller.who.authorize(Verb::See)?;
    let items = read(&server).await?.into_iter().map(|(name, entry)| view(name, entry)).collect();
    Ok(Json(Page { items, next_page_token: None }))
}

/// It is read anew each time: whoever edits the file sees it at once.
///
/// # Errors
/// `BadField` when the file is not understood: its editor is told what is wrong.
pub async fn read(server: &Server) -> Result<Catalogue, Refusal> {
    let file = server.catalogue.clone();
    let read = tokio::task::spawn_blocking(move || catalogue::read(&file)).await;
    let read = read.map_err(|error| Refusal::new(Code::ShuttingDown, "the control plane ends").because(error))?;
    read.map_err(|error| Refusal::new(Code::BadField, format!("the catalogue cannot be used: {error}")))
}

fn view(name: String, entry: Entry) -> CatalogueEntryView {
    CatalogueEntryView {
        name,
        title: entry.title,
        url: entry.url,
        checksum: entry.checksum.map(|checksum| checksum.to_string()),
        checksums_url: entry.checksums,
        format: entry.format.name().to_owned(),
        arch: entry.arch,
    }
}
