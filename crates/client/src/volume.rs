//! Volumes.

use crate::address::encoded;
use crate::ask::Ask;
use crate::call::json;
use crate::{Answer, Client, ClientError, ListQuery};
use http::Method;
use perigee_api::{Page, VolumeAttachRequest, VolumeRequest, VolumeResizeRequest, VolumeView};
use std::time::Duration;

fn path(volume: &str, rest: &str) -> String {
    format!("/api/v1/volumes/{}{rest}", encoded(volume))
}

impl Client {
    /// One page of the volumes.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every call here.
    pub async fn volumes(&self, query: &ListQuery) -> Result<Page<VolumeView>, ClientError> {
        self.page(&query.path("/api/v1/volumes")).await
    }

    /// One volume, by id or name.
    pub async fn volume(&self, volume: &str) -> Result<VolumeView, ClientError> {
        self.get(&path(volume, "")).await
    }

    /// Makes a volume, waiting up to `wait` for it.
    pub async fn create_volume(
        &self,
        request: &VolumeRequest,
        wait: Option<Duration>,
    ) -> Result<Answer<VolumeView>, ClientError> {
        self.work(&Ask::new(Method::POST, "/api/v1/volumes").json(json(request)?).waiting(wait)).await
    }

    /// What a create would make, and where.
    pub async fn plan_volume(&self, request: &VolumeRequest) -> Result<VolumeView, ClientError> {
        self.value(&Ask::new(Method::POST, "/api/v1/volumes?dry_run=true").json(json(request)?)).await
    }

    /// Attaches a volume to a VM, waiting up to `wait` until it has it.
    pub async fn attach_volume(
        &self,
        volume: &str,
        request: &VolumeAttachRequest,
        wait: Option<Duration>,
    ) -> Result<Answer<VolumeView>, ClientError> {
        self.work(&Ask::new(Method::POST, path(volume, "/attach")).json(json(request)?).waiting(wait)).await
    }

    /// Takes a volume out of its VM, waiting up to `wait` until it is out.
    pub async fn detach_volume(&self, volume: &str, wait: Option<Duration>) -> Result<Answer<VolumeView>, ClientError> {
        self.work(&Ask::new(Method::POST, path(volume, "/detach")).waiting(wait)).await
    }

    /// Makes a volume larger, waiting up to `wait` until it is.
    pub async fn resize_volume(
        &self,
        volume: &str,
        request: &VolumeResizeRequest,
        wait: Option<Duration>,
    ) -> Result<Answer<VolumeView>, ClientError> {
        self.work(&Ask::new(Method::POST, path(volume, "/resize")).json(json(request)?).waiting(wait)).await
    }

    /// Deletes a volume, waiting up to `wait` until it is gone.
    pub async fn delete_volume(&self, volume: &str, wait: Option<Duration>) -> Result<Answer<()>, ClientError> {
        self.removal(&Ask::new(Method::DELETE, path(volume, "")).waiting(wait)).await
    }
}
