//! Sandboxes.

use crate::address::encoded;
use crate::ask::Ask;
use crate::call::json;
use crate::{Answer, Client, ClientError, ListQuery, Tagged};
use http::Method;
use perigee_api::{
    ExecuteRequest, ExecutionView, ForwardRequest, Page, SandboxPatch, SandboxPlanView, SandboxRequest, SandboxView,
};
use std::time::Duration;

/// `/api/v1/sandboxes/{id}` and what follows.
pub(crate) fn path(sandbox: &str, rest: &str) -> String {
    format!("/api/v1/sandboxes/{}{rest}", encoded(sandbox))
}

impl Client {
    /// One page of the sandboxes; filters are `name`, `status` and `label` (`key=value`).
    ///
    /// # Errors
    /// See [`ClientError`]; so for every call here.
    pub async fn sandboxes(&self, query: &ListQuery) -> Result<Page<SandboxView>, ClientError> {
        self.page(&query.path("/api/v1/sandboxes")).await
    }

    /// One sandbox, by id or name, with the version that [`Client::patch_sandbox`] wants.
    pub async fn sandbox(&self, sandbox: &str) -> Result<Tagged<SandboxView>, ClientError> {
        self.get_tagged(&path(sandbox, "")).await
    }

    /// Creates a sandbox, waiting up to `wait` for it to run.
    pub async fn create_sandbox(
        &self,
        request: &SandboxRequest,
        wait: Option<Duration>,
    ) -> Result<Answer<SandboxView>, ClientError> {
        self.work(&Ask::new(Method::POST, "/api/v1/sandboxes").json(json(request)?).waiting(wait)).await
    }

    /// Changes labels and policy, if nobody did since `etag` was read; waiting up to `wait` for its host.
    pub async fn patch_sandbox(
        &self,
        sandbox: &str,
        etag: &str,
        patch: &SandboxPatch,
        wait: Option<Duration>,
    ) -> Result<SandboxView, ClientError> {
        let mut ask = Ask::new(Method::PATCH, path(sandbox, "")).json(json(patch)?).waiting(wait);
        ask.media = Some("application/merge-patch+json");
        ask.if_match = Some(etag.to_owned());
        self.value(&ask).await
    }

    /// What a create would do.
    pub async fn plan_sandbox(&self, request: &SandboxRequest) -> Result<SandboxPlanView, ClientError> {
        self.value(&Ask::new(Method::POST, "/api/v1/sandboxes?dry_run=true").json(json(request)?)).await
    }

    /// What a forward would do.
    pub async fn plan_forward(&self, sandbox: &str, request: &ForwardRequest) -> Result<SandboxPlanView, ClientError> {
        self.value(&Ask::new(Method::POST, path(sandbox, "/forwards?dry_run=true")).json(json(request)?)).await
    }

    /// A port of its host leads to the sandbox from now on; waiting up to `wait` for its host.
    pub async fn add_forward(
        &self,
        sandbox: &str,
        request: &ForwardRequest,
        wait: Option<Duration>,
    ) -> Result<SandboxView, ClientError> {
        self.value(&Ask::new(Method::POST, path(sandbox, "/forwards")).json(json(request)?).waiting(wait)).await
    }

    /// It leads there no more; waiting up to `wait` for its host. `protocol`: `tcp` or `udp`.
    pub async fn remove_forward(
        &self,
        sandbox: &str,
        (protocol, host_port): (&str, u16),
        wait: Option<Duration>,
    ) -> Result<SandboxView, ClientError> {
        let rest = format!("/forwards/{protocol}/{host_port}");
        self.value(&Ask::new(Method::DELETE, path(sandbox, &rest)).waiting(wait)).await
    }

    /// Deletes a sandbox, waiting up to `wait` until nothing of it is left.
    pub async fn delete_sandbox(&self, sandbox: &str, wait: Option<Duration>) -> Result<Answer<()>, ClientError> {
        self.removal(&Ask::new(Method::DELETE, path(sandbox, "")).waiting(wait)).await
    }

    /// Runs a command as a task, waiting up to `wait` for its end.
    pub async fn execute(
        &self,
        sandbox: &str,
        request: &ExecuteRequest,
        wait: Option<Duration>,
    ) -> Result<Answer<ExecutionView>, ClientError> {
        self.work(&Ask::new(Method::POST, path(sandbox, "/execute")).json(json(request)?).waiting(wait)).await
    }
}
