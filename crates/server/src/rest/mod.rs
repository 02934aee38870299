//! REST `/api/v1`: one file per noun. Handlers are plain calls: authenticate, call one verb, shape
//! the answer. The OpenAPI document is made from the same declarations.

mod aside;
mod backups;
mod catalogue;
mod console;
mod events;
mod exec_stream;
mod executions;
pub mod extract;
mod files;
mod foreign_vms;
mod forwards;
mod health;
mod hosts;
mod images;
mod ingest;
mod ingest_report;
pub mod layer;
pub mod live;
mod metrics;
mod networks;
mod once;
mod page;
mod pages;
mod prometheus;
pub mod refuse;
mod sandboxes;
mod snapshots;
mod tasks;
mod uploads;
mod views;
mod vms;
mod volumes;

pub use hosts::join_token;
pub use images::sweep as sweep_blobs;
pub use metrics::Requests;

use crate::ingest_token::IngestTokens;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use perigee_blobs::BlobDir;
use perigee_control::Control;
use perigee_control::watch::Watching;
use perigee_model::{Code, Refusal};
use refuse::Refused;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What every handler may use.
#[derive(Clone)]
pub struct Server(Arc<Parts>);

/// The parts of [`Server`].
pub struct Parts {
    /// The brain.
    pub control: Control,
    /// Everything measured.
    pub watch: Watching,
    /// Images' bytes.
    pub blobs: BlobDir,
    /// The file that adds to the catalogue of images.
    pub catalogue: PathBuf,
    /// Host names beside the loopback ones under which we are spoken to.
    pub hosts: Vec<String>,
    /// The agent link's URL, for join tokens.
    pub agents_url: String,
    /// SHA-256 of the authority's certificate, hex, for join tokens.
    pub authority_sha256: String,
    /// Reads and makes ingest tokens.
    pub ingest_tokens: IngestTokens,
    /// Requests served, by status.
    pub requests: Requests,
    /// Idempotency keys whose first request is being served.
    pub in_flight: Mutex<HashSet<(String, String)>>,
}

impl Server {
    /// Wraps the parts.
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl std::ops::Deref for Server {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// Every route with its description.
pub fn router(server: Server) -> (Router, utoipa::openapi::OpenApi) {
    let (routes, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(sandboxes::list, sandboxes::create))
        .routes(routes!(sandboxes::get, sandboxes::update, sandboxes::delete))
        .routes(routes!(forwards::add))
        .routes(routes!(forwards::remove))
        .routes(routes!(forwards::add_to_vm))
        .routes(routes!(forwards::remove_of_vm))
        .routes(routes!(executions::execute))
        .routes(routes!(exec_stream::exec))
        .routes(routes!(files::put, files::get))
        .routes(routes!(vms::list, vms::create))
        .routes(routes!(vms::get, vms::update, vms::delete))
        .routes(routes!(vms::execute))
        .routes(routes!(console::ticket, console::open))
        .routes(routes!(vms::start))
        .routes(routes!(vms::stop))
        .routes(routes!(vms::restart))
        .routes(routes!(vms::pause))
        .routes(routes!(vms::resume))
        .routes(routes!(vms::release))
        .routes(routes!(vms::adopt))
        .routes(routes!(snapshots::list, snapshots::create))
        .routes(routes!(snapshots::get, snapshots::delete))
        .routes(routes!(snapshots::revert))
        .routes(routes!(backups::create))
        .routes(routes!(backups::schedule, backups::unschedule))
        .routes(routes!(backups::list))
        .routes(routes!(backups::get, backups::delete))
        .routes(routes!(backups::restore))
        .routes(routes!(backups::verify))
        .routes(routes!(volumes::list, volumes::create))
        .routes(routes!(volumes::get, volumes::delete))
        .routes(routes!(volumes::attach))
        .routes(routes!(volumes::detach))
        .routes(routes!(volumes::resize))
        .routes(routes!(networks::list, networks::create))
        .routes(routes!(networks::get, networks::delete))
        .routes(routes!(foreign_vms::list))
        .routes(routes!(foreign_vms::get))
        .routes(routes!(executions::list))
        .routes(routes!(executions::get))
        .routes(routes!(executions::output))
        .routes(routes!(images::list, images::create))
        .routes(routes!(images::get, images::delete))
        .routes(routes!(uploads::get, uploads::put, uploads::delete))
        .routes(routes!(catalogue::list))
        .routes(routes!(tasks::list))
        .routes(routes!(tasks::get))
        .routes(routes!(tasks::cancel))
        .routes(routes!(hosts::list))
        .routes(routes!(hosts::get, hosts::revoke))
        .routes(routes!(hosts::token))
        .routes(routes!(ingest::allow))
        .routes(routes!(ingest::renew))
        .routes(routes!(ingest::register))
        .routes(routes!(ingest::metrics))
        .routes(routes!(ingest::command_result))
        .routes(routes!(events::list, ingest::events))
        .routes(routes!(live::live))
        .routes(routes!(prometheus::query))
        .routes(routes!(prometheus::query_range))
        .routes(routes!(prometheus::labels))
        .routes(routes!(prometheus::label_values))
        .routes(routes!(prometheus::series))
        .routes(routes!(prometheus::metadata))
        .split_for_parts();
    Bearer.modify(&mut document);
    (around(routes, document.clone(), server), document)
}

/// The described routes, those that the document leaves out, and what concerns every request.
fn around(described: Router<Server>, document: utoipa::openapi::OpenApi, server: Server) -> Router {
    let openapi = move |_: extract::Caller| {
        let served = document.clone();
        async move { axum::Json(served) }
    };
    described
        .route("/api/v1/openapi.json", get(openapi))
        // Clients of that API send long queries as forms.
        .route("/api/v1/query", post(prometheus::query))
        .route("/api/v1/query_range", post(prometheus::query_range))
        .route("/api/v1/labels", post(prometheus::labels))
        .route("/api/v1/series", post(prometheus::series))
        .route("/api/v1/status/buildinfo", get(prometheus::build))
        .route("/health/live", get(health::live))
        .route("/health/ready", get(health::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/errors/{code}", get(pages::error))
        .route("/", get(pages::index))
        .route("/status.js", get(pages::script))
        .route("/status.css", get(pages::style))
        .route("/icon.svg", get(pages::icon))
        .route("/manifest.webmanifest", get(pages::manifest))
        .route("/assets/{name}", get(pages::asset))
        .fallback(pages::elsewhere)
        .method_not_allowed_fallback(async || {
            let text = "the route does not know this method; see /api/v1/openapi.json";
            Refused(Refusal::new(Code::WrongMethod, text)).into_response()
        })
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(layer::panicked))
        .layer(axum::middleware::from_fn_with_state(server.clone(), layer::around))
        .with_state(server)
}

/// The OpenAPI document without its routes.
#[derive(OpenApi)]
#[openapi(info(
    title = "Perigee",
    description = "One control plane for every machine its owner has.",
    license(name = "Apache-2.0", identifier = "Apache-2.0")
))]
struct Document;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("bearer", SecurityScheme::Http(scheme));
        // The one route that a browser opens without a header of its own (decision 0003).
        let ticket = SecurityScheme::ApiKey(ApiKey::Query(ApiKeyValue::new("ticket")));
        components.add_security_scheme("ticket", ticket);
        let needs = utoipa::openapi::security::SecurityRequirement::new::<_, _, String>("bearer", []);
        document.security = Some(vec![needs]);
    }
}
