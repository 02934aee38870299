//! Tasks.

use crate::address::encoded;
use crate::ask::Ask;
use crate::{Client, ClientError, ListQuery};
use http::Method;
use perigee_api::{Page, TaskView};
use std::time::Duration;

impl Client {
    /// One page of the tasks.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every call here.
    pub async fn tasks(&self, query: &ListQuery) -> Result<Page<TaskView>, ClientError> {
        self.page(&query.path("/api/v1/tasks")).await
    }

    /// One task; with `wait`, once it is final or that time has passed.
    pub async fn task(&self, task: &str, wait: Option<Duration>) -> Result<TaskView, ClientError> {
        let path = format!("/api/v1/tasks/{}", encoded(task));
        self.value(&Ask::new(Method::GET, path).waiting(wait)).await
    }

    /// Asks for a task to be given up.
    pub async fn cancel_task(&self, task: &str) -> Result<TaskView, ClientError> {
        self.value(&Ask::new(Method::POST, format!("/api/v1/tasks/{}/cancel", encoded(task)))).await
    }
}
