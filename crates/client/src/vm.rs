//! Virtual machines.

use crate::address::encoded;
use crate::{Client, ClientError, ListQuery};
use perigee_api::{ForeignVmView, Page};

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
}
