//! Executions.

use crate::address::encoded;
use crate::ask::Ask;
use crate::{Client, ClientError, FileStream, ListQuery};
use http::Method;
use perigee_api::{ExecutionView, Page};

impl Client {
    /// One page of the executions.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every call here.
    pub async fn executions(&self, query: &ListQuery) -> Result<Page<ExecutionView>, ClientError> {
        self.page(&query.path("/api/v1/executions")).await
    }

    /// One execution.
    pub async fn execution(&self, execution: &str) -> Result<ExecutionView, ClientError> {
        self.get(&format!("/api/v1/executions/{}", encoded(execution))).await
    }

    /// The bytes kept of `stdout` or `stderr`.
    pub async fn execution_output(&self, execution: &str, stream: &str) -> Result<FileStream, ClientError> {
        let path = format!("/api/v1/executions/{}/output?stream={}", encoded(execution), encoded(stream));
        let answer = self.accepted(&Ask::new(Method::GET, path)).await?;
        Ok(FileStream::new(self.clone(), answer))
    }
}
