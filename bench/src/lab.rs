//! What every row works with.

use crate::Options;
use crate::api;
use crate::bare::Bare;
use crate::instance::Instance;
use anyhow::{Context as _, Result};
use perigee_client::Client;
use perigee_clock::Clock;
use perigee_model::PartRole;
use std::path::PathBuf;

pub struct Lab {
    pub instance: Instance,
    pub bare: Bare,
    pub client: Client,
    pub clock: Clock,
    quick: bool,
}

impl Lab {
    pub async fn open(options: &Options, clock: Clock) -> Result<Self> {
        crate::say::progress("an instance comes up and builds its image");
        let instance = Instance::start(options)?;
        let client = instance.client()?;
        let parts = parts(&client, &instance).await?;
        let bare = Bare::open(&instance.path().join("bare"), parts, clock.clone())?;
        Ok(Self { instance, bare, client, clock, quick: options.quick })
    }

    /// So many runs, or a tenth of them.
    pub fn runs(&self, full: usize) -> usize {
        if self.quick { full.div_ceil(10).max(2) } else { full }
    }

    /// A sandbox that runs and has run something.
    pub async fn sandbox(&self, name: &str) -> Result<String> {
        let sandbox = api::create(&self.client, name).await?.id;
        api::exec(&self.client, &sandbox, &["true"], &self.clock).await?;
        Ok(sandbox)
    }

    /// Nothing is left of it, also after a failure.
    pub async fn close(mut self) -> Result<()> {
        let cleared = self.bare.clear().await;
        self.instance.down()?;
        cleared
    }
}

/// The image's files in the control plane's blobs.
async fn parts(client: &Client, instance: &Instance) -> Result<Vec<(PartRole, PathBuf)>> {
    let image = client.image("base").await?;
    let part = |part: perigee_api::PartView| {
        let role = serde_json::from_value(serde_json::Value::String(part.role.clone())).context("an unknown part")?;
        let digest = part.digest.trim_start_matches("sha256:").to_owned();
        Ok((role, instance.path().join("blobs/sha256").join(digest)))
    };
    image.parts.into_iter().map(part).collect()
}
