//! The builder of `base`.

use super::{BuildProgress, Builder, Built};
use async_trait::async_trait;
use perigee_images::{BaseBuild, Progress, build_base};
use perigee_model::Name;
use tokio::sync::watch;

/// Builds `base` from this machine's packages; knows no other recipe.
pub struct BaseBuilder(BaseBuild);

impl BaseBuilder {
    /// With the folder, guest binary and kernel source of this build.
    pub fn new(build: BaseBuild) -> Self {
        Self(build)
    }
}

#[async_trait]
impl Builder for BaseBuilder {
    async fn build(&self, recipe: &Name, progress: watch::Sender<BuildProgress>) -> Result<Built, String> {
        if recipe.as_str() != "base" {
            return Err(format!("this host knows the recipe base, not {recipe}"));
        }
        let mut tell = |now: Progress| {
            let percent = u8::try_from(now.done * 100 / now.total.max(1)).unwrap_or(100);
            progress.send_replace(Some((now.step.to_owned(), Some(percent))));
        };
        let built = build_base(&self.0, &mut tell).await.map_err(|e| crate::chain(&e))?;
        Ok(Built {
            arch: built.arch,
            kernel_release: built.kernel_release,
            parts: built.parts.into_iter().map(|p| (p.part, p.path)).collect(),
        })
    }
}
