//! Images of nothing.
//!
//! Owns: a builder that makes one empty kernel, and hosts that have every part after a moment.
//! Refuses: bytes.

use async_trait::async_trait;
use perigee_agent::parts::Progress;
use perigee_agent::{BuildProgress, Builder, Built, Parts, PartsError};
use perigee_model::{Digest, Name, Part, PartRole};
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::watch;

const BUILD: Duration = Duration::from_millis(800);
const FETCH: Duration = Duration::from_millis(40);

/// Builds and has images.
#[derive(Debug)]
pub struct Nothing;

#[async_trait]
impl Builder for Nothing {
    async fn build(&self, _: &Name, progress: watch::Sender<BuildProgress>) -> Result<Built, String> {
        progress.send_replace(Some(("a kernel of nothing".to_owned(), Some(50))));
        tokio::time::sleep(BUILD).await;
        let digest = Digest::parse(&"0".repeat(64)).ok_or_else(|| "no digest".to_owned())?;
        let part = Part { role: PartRole::Kernel, digest, bytes: 1 };
        let parts = vec![(part, PathBuf::from("/sim/kernel"))];
        Ok(Built { arch: "x86_64".to_owned(), kernel_release: "6.1.0-simulated".to_owned(), parts })
    }
}

#[async_trait]
impl Parts for Nothing {
    async fn ensure(
        &self,
        parts: &[Part],
        _: watch::Sender<Option<Progress>>,
    ) -> Result<Vec<(PartRole, PathBuf)>, PartsError> {
        tokio::time::sleep(FETCH).await;
        Ok(parts.iter().map(|part| (part.role, PathBuf::from("/sim/kernel"))).collect())
    }
}
