//! What lists take and what waiting calls give.

use crate::address::encoded;
use perigee_api::TaskView;
use std::time::Duration;

/// Which part of a list is wanted.
#[derive(Clone, Debug, Default)]
pub struct ListQuery {
    /// Objects on one page; the server's default when absent.
    pub limit: Option<u32>,
    /// From the page before.
    pub page_token: Option<String>,
    /// `name`, `status`, `label`, `state`, `kind`: whatever the list knows.
    pub filters: Vec<(&'static str, String)>,
}

impl ListQuery {
    /// Adds a filter if there is a value.
    #[must_use]
    pub fn filter(mut self, key: &'static str, value: Option<String>) -> Self {
        self.filters.extend(value.map(|v| (key, v)));
        self
    }

    /// `PATH?limit=…&…`.
    pub(crate) fn path(&self, path: &str) -> String {
        let mut pairs: Vec<String> = Vec::new();
        pairs.extend(self.limit.map(|n| format!("limit={n}")));
        pairs.extend(self.page_token.as_deref().map(|t| format!("page_token={}", encoded(t))));
        pairs.extend(self.filters.iter().map(|(k, v)| format!("{k}={}", encoded(v))));
        if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
    }
}

/// What a call gives that may be waited for.
#[derive(Clone, Debug)]
pub enum Answer<T> {
    /// It was done within the wait.
    Done(T),
    /// It is under way: the task to follow.
    Accepted(Box<TaskView>),
}

/// An object and the version it was read in.
#[derive(Clone, Debug)]
pub struct Tagged<T> {
    /// The object.
    pub object: T,
    /// Its `ETag`, for `If-Match`.
    pub etag: Option<String>,
}

/// `Prefer: wait=N` counts whole seconds; less than one would mean none.
pub(crate) fn wait_seconds(wait: Duration) -> u64 {
    wait.as_secs().max(1)
}
