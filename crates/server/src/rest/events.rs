//! `/api/v1/events`: the audit events of the caller's tenant.

use super::extract::{Caller, Params};
use super::refuse::Answer;
use super::{Server, views};
use axum::Json;
use axum::extract::State;
use perigee_api::{EventView, Page, ProblemDocument};
use perigee_model::limits::{PAGE_DEFAULT, PAGE_MAX};
use perigee_model::{Code, Refusal, Verb};
use serde::Deserialize;
use utoipa::IntoParams;

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Only events after this sequence number.
    pub after: Option<i64>,
    /// Objects on the page, 1 to 1000; 100 by default.
    pub limit: Option<usize>,
    /// From the page before: the last `seq`.
    pub page_token: Option<String>,
}

/// Events, oldest first.
#[utoipa::path(get, path = "/api/v1/events", tag = "events", params(ListParams),
    responses((status = 200, body = Page<EventView>), (status = "4XX", body = ProblemDocument)))]
pub async fn list(
    State(server): State<Server>,
    caller: Caller,
    Params(params): Params<ListParams>,
) -> Answer<Json<Page<EventView>>> {
    caller.who.authorize(Verb::See)?;
    let limit = params.limit.unwrap_or(PAGE_DEFAULT);
    if limit == 0 || limit > PAGE_MAX {
        return Err(Refusal::field("limit", format!("limit is 1 to {PAGE_MAX}")).into());
    }
    let token = params.page_token.as_deref().map(|t| {
        let number = t.strip_prefix("events-").and_then(|t| t.parse::<i64>().ok());
        number.ok_or_else(|| Refusal::new(Code::BadPageToken, "use page_token only with the list that gave it"))
    });
    let mut after = token.transpose()?.or(params.after).unwrap_or(0);
    let mut items = Vec::new();
    let batch = u32::try_from(PAGE_MAX).unwrap_or(u32::MAX);
    // Other tenants' events are skipped, so one page may take several reads.
    loop {
        let read = server
            .control
            .store()
            .events(after, batch)
            .await
            .map_err(|e| Refusal::new(Code::StoreDown, "the store does not answer").because(e))?;
        let full = read.len() == PAGE_MAX;
        for (seq, event) in read {
            if items.len() == limit {
                return Ok(Json(Page { items, next_page_token: Some(format!("events-{after}")) }));
            }
            after = seq;
            if event.tenant == caller.who.tenant {
                items.push(views::event(seq, &event));
            }
        }
        if !full {
            return Ok(Json(Page { items, next_page_token: None }));
        }
    }
}
