//! Audit events.

use crate::{Client, ClientError};
use perigee_api::{EventView, Page};

impl Client {
    /// Events after the one with this number, the oldest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn events(&self, after: i64, limit: u32) -> Result<Page<EventView>, ClientError> {
        self.page(&format!("/api/v1/events?after={after}&limit={limit}")).await
    }
}
