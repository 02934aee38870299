//! Builds what is measured, as it is released, and measures it.

use crate::build;
use crate::shell::{cargo, program, release_dir};
use anyhow::Result;

/// What a release is built with, unless these variables of cargo say otherwise.
const PROFILE: &[(&str, &str, &str)] = &[
    ("lto", "CARGO_PROFILE_RELEASE_LTO", "thin"),
    ("codegen units", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"),
    ("opt level", "CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
];

/// `arguments` are rows and options of `perigee-bench`.
pub fn run(arguments: &[String]) -> Result<()> {
    cargo(["build", "--release", "--bin", "perigee", "--bin", "perigeed"])
        .args(["--bin", "perigee-sim", "--bin", "perigee-bench"])
        .go()?;
    build::agent()?;
    let guest = build::guest()?;
    program(release_dir().join("perigee-bench"))
        .args(["--programs".as_ref(), release_dir().as_os_str()])
        .args(["--guest-binary".as_ref(), guest.as_os_str()])
        .args(["--built", &built(|name| std::env::var(name).ok())])
        .args(arguments)
        .go()
}

/// How, in words.
fn built(variable: impl Fn(&str) -> Option<String>) -> String {
    let say = |(what, name, usual): &(&str, &str, &str)| {
        format!("{what} {}", variable(name).unwrap_or_else(|| (*usual).to_owned()))
    };
    let words: Vec<_> = PROFILE.iter().map(say).collect();
    format!("release profile, {}; the agent with profile agent", words.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_was_told_is_said() {
        let told = |name: &str| name.ends_with("LTO").then(|| "off".to_owned());
        assert_eq!(
            built(told),
            "release profile, lto off, codegen units 16, opt level 3; the agent with profile agent"
        );
    }
}
