//! Work in steps that can be undone.
//!
//! ```text
//! step 1 ─▶ step 2 ─▶ step 3 ✗      what this run did, it undoes: the failed step too, for it may
//! undo 1 ◀─ undo 2 ◀─ undo 3        be half done; what was there before stays
//! ```
//! Owns: the order. Refuses: to go on undoing when an undo fails: what is left is then in order, and
//! the first step's mark is still there for whoever clears up.

use crate::HypervisorError;
use async_trait::async_trait;

/// One step. Each of its calls may be repeated.
#[async_trait]
pub trait Step: Send + Sync {
    /// For the log.
    fn name(&self) -> &'static str;
    /// Whether there is nothing to do; then there is nothing to undo either.
    ///
    /// # Errors
    /// When that cannot be told.
    async fn is_done(&self) -> Result<bool, HypervisorError>;
    /// Does it.
    ///
    /// # Errors
    /// Why it cannot be done.
    async fn perform(&self) -> Result<(), HypervisorError>;
    /// Leaves nothing of it, also of a half of it. Fine when there is nothing.
    ///
    /// # Errors
    /// Why something is left.
    async fn undo(&self) -> Result<(), HypervisorError>;
}

/// Does every step that is not done, or none of them.
///
/// # Errors
/// The failed step's.
pub async fn run(steps: &[&dyn Step]) -> Result<(), HypervisorError> {
    let mut begun = Vec::new();
    for step in steps {
        let done = match step.is_done().await {
            Ok(true) => continue,
            Ok(false) => {
                begun.push(*step);
                step.perform().await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            tracing::info!(step = step.name(), %error, "a step failed: what was done is undone");
            undo(&begun).await;
            return Err(error);
        }
    }
    Ok(())
}

async fn undo(begun: &[&dyn Step]) {
    for step in begun.iter().rev() {
        if let Err(error) = step.undo().await {
            tracing::warn!(step = step.name(), %error, "a step cannot be undone: it is left for a later removal");
            return;
        }
    }
}

#[cfg(test)]
pub mod trial;
