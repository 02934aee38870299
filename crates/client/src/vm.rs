//! Virtual machines.

use crate::address::encoded;
use crate::ask::Ask;
use crate::call::json;
use crate::{Answer, Client, ClientError, ListQuery, Tagged};
use http::Method;
use perigee_api::{AdoptRequest, ForeignVmView, Page, StopRequest, VmPatch, VmPlanView, VmRequest, VmView};
use std::time::Duration;

fn path(vm: &str, rest: &str) -> String {
    format!("/api/v1/vms/{}{rest}", encoded(vm))
}

/// Where a VM's power switch is moved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Switch {
    /// Boot it; let it go on when it is paused.
    Start,
    /// Let it turn itself off, then end it.
    Stop(StopRequest),
    /// Stop it, then boot it.
    Restart(StopRequest),
    /// Stop its CPUs.
    Pause,
    /// Let them run again.
    Resume,
}

impl Client {
    /// One page of the virtual machines that Perigee did not make; filters are `name` and `host`.
    ///
    /// # Errors
    /// See [`ClientError`]; so for every call here.
    pub async fn foreign_vms(&self, query: &ListQuery) -> Result<Page<ForeignVmView>, ClientError> {
        self.page(&query.path("/api/v1/foreign-vms")).await
    }

    /// One of them, by id or name.
    pub async fn foreign_vm(&self, vm: &str) -> Result<ForeignVmView, ClientError> {
        self.get(&format!("/api/v1/foreign-vms/{}", encoded(vm))).await
    }

    /// One page of guests of every kind; filters are `kind`, `name`, `status` and `label`.
    pub async fn vms(&self, query: &ListQuery) -> Result<Page<VmView>, ClientError> {
        self.page(&query.path("/api/v1/vms")).await
    }

    /// One guest of any kind, with the version that [`Client::patch_vm`] wants.
    pub async fn vm(&self, vm: &str) -> Result<Tagged<VmView>, ClientError> {
        self.get_tagged(&path(vm, "")).await
    }

    /// Creates a VM, waiting up to `wait` for it to run.
    pub async fn create_vm(&self, request: &VmRequest, wait: Option<Duration>) -> Result<Answer<VmView>, ClientError> {
        self.work(&Ask::new(Method::POST, "/api/v1/vms").json(json(request)?).waiting(wait)).await
    }

    /// What a create would do.
    pub async fn plan_vm(&self, request: &VmRequest) -> Result<VmPlanView, ClientError> {
        self.value(&Ask::new(Method::POST, "/api/v1/vms?dry_run=true").json(json(request)?)).await
    }

    /// Changes a VM, if nobody did since `etag` was read; waiting up to `wait` for its host.
    pub async fn patch_vm(
        &self,
        vm: &str,
        etag: &str,
        patch: &VmPatch,
        wait: Option<Duration>,
    ) -> Result<VmView, ClientError> {
        let mut ask = Ask::new(Method::PATCH, path(vm, "")).json(json(patch)?).waiting(wait);
        ask.media = Some("application/merge-patch+json");
        ask.if_match = Some(etag.to_owned());
        self.value(&ask).await
    }

    /// Deletes a VM with its disk, waiting up to `wait` until nothing of it is left.
    pub async fn delete_vm(&self, vm: &str, wait: Option<Duration>) -> Result<Answer<()>, ClientError> {
        self.removal(&Ask::new(Method::DELETE, path(vm, "")).waiting(wait)).await
    }

    /// Moves a VM's power switch, waiting up to `wait` until it is there.
    pub async fn switch_vm(
        &self,
        vm: &str,
        switch: &Switch,
        wait: Option<Duration>,
    ) -> Result<Answer<VmView>, ClientError> {
        let (verb, body) = match switch {
            Switch::Start => ("/start", None),
            Switch::Stop(how) => ("/stop", Some(json(how)?)),
            Switch::Restart(how) => ("/restart", Some(json(how)?)),
            Switch::Pause => ("/pause", None),
            Switch::Resume => ("/resume", None),
        };
        let ask = Ask::new(Method::POST, path(vm, verb));
        let ask = body.into_iter().fold(ask, Ask::json);
        self.work(&ask.waiting(wait)).await
    }

    /// Takes over a VM of a host's own libvirt, waiting up to `wait` until it is ours.
    pub async fn adopt_vm(
        &self,
        foreign: &str,
        request: &AdoptRequest,
        wait: Option<Duration>,
    ) -> Result<Answer<VmView>, ClientError> {
        let path = format!("/api/v1/foreign-vms/{}/adopt", encoded(foreign));
        self.work(&Ask::new(Method::POST, path).json(json(request)?).waiting(wait)).await
    }

    /// Lets an adopted VM go, waiting up to `wait`.
    pub async fn release_vm(&self, vm: &str, wait: Option<Duration>) -> Result<Answer<()>, ClientError> {
        self.removal(&Ask::new(Method::POST, path(vm, "/release")).waiting(wait)).await
    }
}
