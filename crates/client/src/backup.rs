//! Backups of virtual machines.

use crate::address::encoded;
use crate::ask::Ask;
use crate::call::json;
use crate::{Answer, Client, ClientError, ListQuery};
use http::Method;
use perigee_api::{BackupRequest, BackupScheduleRequest, BackupView, Page, RestoreRequest, VerifyRequest, VmView};
use std::time::Duration;

fn path(backup: &str, rest: &str) -> String {
    format!("/api/v1/backups/{}{rest}", encoded(backup))
}

impl Client {
    /// One page of the backups, oldest first; filter `vm`: id of a VM, or what it was called.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every call here.
    pub async fn backups(&self, query: &ListQuery) -> Result<Page<BackupView>, ClientError> {
        self.page(&query.path("/api/v1/backups")).await
    }

    /// One of them, by name or id.
    pub async fn backup(&self, backup: &str) -> Result<BackupView, ClientError> {
        self.get(&path(backup, "")).await
    }

    /// Backs a VM up as it is now, waiting up to `wait` until that is done.
    pub async fn create_backup(
        &self,
        vm: &str,
        request: &BackupRequest,
        wait: Option<Duration>,
    ) -> Result<Answer<BackupView>, ClientError> {
        let path = format!("/api/v1/vms/{}/backups", encoded(vm));
        self.work(&Ask::new(Method::POST, path).json(json(request)?).waiting(wait)).await
    }

    /// Deletes a backup.
    pub async fn delete_backup(&self, backup: &str) -> Result<(), ClientError> {
        self.removal(&Ask::new(Method::DELETE, path(backup, ""))).await.map(drop)
    }

    /// Makes a VM from a backup, waiting up to `wait` until it runs.
    pub async fn restore_backup(
        &self,
        backup: &str,
        request: &RestoreRequest,
        wait: Option<Duration>,
    ) -> Result<Answer<VmView>, ClientError> {
        self.work(&Ask::new(Method::POST, path(backup, "/restore")).json(json(request)?).waiting(wait)).await
    }

    /// Has all bytes of a backup looked at, and whether it boots, waiting up to `wait` until that is done.
    pub async fn verify_backup(
        &self,
        backup: &str,
        request: &VerifyRequest,
        wait: Option<Duration>,
    ) -> Result<Answer<BackupView>, ClientError> {
        self.work(&Ask::new(Method::POST, path(backup, "/verify")).json(json(request)?).waiting(wait)).await
    }

    /// Says when a VM is backed up by itself; `None`: no more.
    pub async fn schedule_backups(
        &self,
        vm: &str,
        schedule: Option<&BackupScheduleRequest>,
    ) -> Result<(), ClientError> {
        let path = format!("/api/v1/vms/{}/backup-schedule", encoded(vm));
        match schedule {
            Some(schedule) => self.accepted(&Ask::new(Method::PUT, path).json(json(schedule)?)).await.map(drop),
            None => self.removal(&Ask::new(Method::DELETE, path)).await.map(drop),
        }
    }
}
