//! Whether the control plane lives, what of it is ready, and its contract.

use crate::ask::Ask;
use crate::{Client, ClientError};
use http::Method;
use perigee_api::ReadyView;

impl Client {
    /// Somebody answers there.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every call here.
    pub async fn live(&self) -> Result<(), ClientError> {
        self.accepted(&Ask::new(Method::GET, "/health/live")).await.map(drop)
    }

    /// What is ready, part by part. Something that is not ready is an answer too, whatever its status.
    pub async fn ready(&self) -> Result<ReadyView, ClientError> {
        let answer = self.raw(Method::GET, "/health/ready", None).await?;
        match serde_json::from_slice(&answer.body) {
            Ok(view) => Ok(view),
            Err(_) => Err(ClientError::refused(answer.status, &answer.body)),
        }
    }

    /// The OpenAPI document.
    pub async fn openapi(&self) -> Result<serde_json::Value, ClientError> {
        self.get("/api/v1/openapi.json").await
    }
}
