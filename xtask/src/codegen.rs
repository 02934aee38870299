//! The agent protocol's Rust, generated from its .proto files and committed: building Perigee needs
//! no protoc. The generator is behind the feature `codegen`, so that xtask itself builds quickly.

use anyhow::Result;

/// Writes the files, or with `--check` only compares them.
#[cfg(not(feature = "codegen"))]
pub fn run(arguments: &[String]) -> Result<()> {
    let again = ["run", "--quiet", "--package", "xtask", "--features", "codegen", "--", "codegen"];
    crate::shell::cargo(again).args(arguments).go()
}

#[cfg(feature = "codegen")]
pub use generator::run;

#[cfg(feature = "codegen")]
mod generator {
    use super::Result;
    use crate::shell::debug_dir;
    use anyhow::{Context as _, bail};
    use std::path::{Path, PathBuf};

    const PROTO: &str = "crates/agent-api/proto";
    const WIRE: &str = "crates/agent-api/src/wire";

    pub fn run(arguments: &[String]) -> Result<()> {
        let check = match arguments {
            [] => false,
            [flag] if flag == "--check" => true,
            other => bail!("codegen knows only --check, not {other:?}"),
        };
        let mut differing = Vec::new();
        for proto in protos()? {
            let fresh = generate(&proto)?;
            let kept = Path::new(WIRE).join(proto.with_extension("rs").file_name().unwrap_or_default());
            if std::fs::read_to_string(&kept).ok().as_deref() == Some(&fresh) {
                continue;
            }
            if check {
                differing.push(kept.display().to_string());
            } else {
                std::fs::write(&kept, fresh)?;
                println!("wrote {}", kept.display());
            }
        }
        if differing.is_empty() { Ok(()) } else { bail!("run `cargo xtask codegen`: {} differs", differing.join(", ")) }
    }

    fn protos() -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(PROTO).context(PROTO)?;
        let mut found: Vec<_> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        found.retain(|path| path.extension().is_some_and(|end| end == "proto"));
        found.sort();
        Ok(found)
    }

    /// One .proto, one package, one file. prettyplease lays it out, the same everywhere; rustfmt skips it.
    fn generate(proto: &Path) -> Result<String> {
        let out = debug_dir().join("codegen");
        _ = std::fs::remove_dir_all(&out);
        std::fs::create_dir_all(&out)?;
        tonic_prost_build::configure()
            .out_dir(&out)
            .emit_rerun_if_changed(false)
            .compile_with_config(prost_build::Config::new(), &[proto], &[Path::new(PROTO)])
            .context("protoc (scripts/setup test installs it)")?;
        let mut made = std::fs::read_dir(&out)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        let (Some(file), true) = (made.pop(), made.is_empty()) else {
            bail!("{} must hold exactly one package", proto.display())
        };
        Ok(std::fs::read_to_string(file)?)
    }
}
