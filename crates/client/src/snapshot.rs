//! Snapshots of virtual machines.

use crate::address::encoded;
use crate::ask::Ask;
use crate::call::json;
use crate::{Answer, Client, ClientError};
use http::Method;
use perigee_api::{Page, SnapshotRequest, SnapshotView, VmView};
use std::time::Duration;

fn path(vm: &str, rest: &str) -> String {
    format!("/api/v1/vms/{}/snapshots{rest}", encoded(vm))
}

impl Client {
    /// All of a VM's snapshots, oldest first.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every call here.
    pub async fn snapshots(&self, vm: &str) -> Result<Page<SnapshotView>, ClientError> {
        self.page(&path(vm, "")).await
    }

    /// One of them, by name or id.
    pub async fn snapshot(&self, vm: &str, snapshot: &str) -> Result<SnapshotView, ClientError> {
        self.get(&path(vm, &format!("/{}", encoded(snapshot)))).await
    }

    /// Keeps a VM as it is now, waiting up to `wait` until that is done.
    pub async fn create_snapshot(
        &self,
        vm: &str,
        request: &SnapshotRequest,
        wait: Option<Duration>,
    ) -> Result<Answer<SnapshotView>, ClientError> {
        self.work(&Ask::new(Method::POST, path(vm, "")).json(json(request)?).waiting(wait)).await
    }

    /// Puts a VM back to a snapshot, waiting up to `wait` until it is there.
    pub async fn revert_snapshot(
        &self,
        vm: &str,
        snapshot: &str,
        wait: Option<Duration>,
    ) -> Result<Answer<VmView>, ClientError> {
        let path = path(vm, &format!("/{}/revert", encoded(snapshot)));
        self.work(&Ask::new(Method::POST, path).waiting(wait)).await
    }

    /// Deletes a snapshot, waiting up to `wait` until it is gone.
    pub async fn delete_snapshot(
        &self,
        vm: &str,
        snapshot: &str,
        wait: Option<Duration>,
    ) -> Result<Answer<()>, ClientError> {
        let path = path(vm, &format!("/{}", encoded(snapshot)));
        self.removal(&Ask::new(Method::DELETE, path).waiting(wait)).await
    }
}
