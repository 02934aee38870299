//! Images of nothing.
//!
//! Owns: a builder that makes a kernel and an initial RAM file system of nothing, and hosts that have every part after a moment.
//! Refuses: bytes.

use async_trait::async_trait;
use perigee_agent::parts::Progress;
use perigee_agent::{BuildProgress, Builder, Built, Parts, PartsError};
use perigee_model::{Digest, Part, PartRole, Recipe};
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
    async fn build(&self, _: &Recipe, progress: watch::Sender<BuildProgress>) -> Result<Built, String> {
        progress.send_replace(Some(("a kernel of nothing".to_owned(), Some(50))));
        tokio::time::sleep(BUILD).await;
        // VMs have `perigee-guest` by our own initial RAM file system.
        let mut parts = Vec::new();
        for (role, digit) in [(PartRole::Kernel, "0"), (PartRole::Initrd, "1")] {
            let digest = Digest::parse(&digit.repeat(64)).ok_or_else(|| "no digest".to_owned())?;
            parts.push((Part { role, digest, bytes: 1 }, PathBuf::from("/sim/part")));
        }
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
        Ok(parts.iter().map(|part| (part.role, PathBuf::from("/sim/part"))).collect())
    }
}
