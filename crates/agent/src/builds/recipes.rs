//! The builder of this machine.

use super::{BuildProgress, Builder, Built};
use async_trait::async_trait;
use perigee_images::{BaseBuild, DebianBuild, Progress, build_base, build_debian};
use perigee_model::Recipe;
use tokio::sync::watch;

/// Builds images from this machine's packages.
pub struct Recipes(BaseBuild);

impl Recipes {
    /// With the folder, guest binary and kernel source of `base`; the others use its folder.
    pub fn new(base: BaseBuild) -> Self {
        Self(base)
    }
}

#[async_trait]
impl Builder for Recipes {
    async fn build(&self, recipe: &Recipe, progress: watch::Sender<BuildProgress>) -> Result<Built, String> {
        let mut tell = |now: Progress| {
            let percent = u8::try_from(now.done * 100 / now.total.max(1)).unwrap_or(100);
            progress.send_replace(Some((now.step.into_owned(), Some(percent))));
        };
        let built = match recipe {
            Recipe::Base => build_base(&self.0, &mut tell).await,
            Recipe::Debian { include, kind } => {
                let build = DebianBuild { base: self.0.clone(), kind: *kind, include: include.clone() };
                build_debian(&build, &mut tell).await
            }
        };
        let built = built.map_err(|e| crate::chain(&e))?;
        Ok(Built {
            arch: built.arch,
            kernel_release: built.kernel_release,
            parts: built.parts.into_iter().map(|p| (p.part, p.path)).collect(),
        })
    }
}
