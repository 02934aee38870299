//! What an image is built from.

use crate::{GuestKind, Refusal};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Packages that may be asked for beside the usual ones.
const PACKAGES_MAX: usize = 200;
const PACKAGE_BYTES_MAX: usize = 128;

/// How an image is built, on a host that can.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipe {
    /// Kernel, busybox, perigee-guest: no distribution. Sandboxes and VMs start from it.
    #[default]
    Base,
    /// Debian from its packages: the disk of a VM, or the root of a sandbox.
    Debian {
        /// Packages beside the usual ones.
        include: Vec<PackageName>,
        /// What it is for.
        #[serde(default = "vm")]
        kind: GuestKind,
    },
}

/// Before there was a choice.
fn vm() -> GuestKind {
    GuestKind::Vm
}

impl Recipe {
    /// As a user asks for it; `kind`: `vm` or `sandbox`.
    ///
    /// # Errors
    /// `BadField` for a recipe that is not known, or a field that it does not have.
    pub fn parse(name: &str, kind: Option<&str>, include: &[String]) -> Result<Self, Refusal> {
        let asked = kind.is_some();
        let kind = match kind {
            None | Some("vm") => GuestKind::Vm,
            Some("sandbox") => GuestKind::Sandbox,
            Some(other) => return Err(Refusal::field("kind", format!("the kinds are vm and sandbox, not {other:?}"))),
        };
        match name {
            "base" if !include.is_empty() => Err(Refusal::field("include", "base has no packages; debian does")),
            "base" if asked => Err(Refusal::field("kind", "base is for sandboxes and VMs alike")),
            "base" => Ok(Self::Base),
            "debian" => {
                if include.len() > PACKAGES_MAX {
                    return Err(Refusal::field("include", format!("at most {PACKAGES_MAX} packages")));
                }
                let parse = |text: &String| {
                    PackageName::parse(text).ok_or_else(|| {
                        let text =
                            format!("{text:?} is no package: small letters, digits, +, - and . (Debian Policy 5.6.1)");
                        Refusal::field("include", text)
                    })
                };
                Ok(Self::Debian { include: include.iter().map(parse).collect::<Result<_, _>>()?, kind })
            }
            other => Err(Refusal::field("recipe", format!("the recipes are base and debian, not {other:?}"))),
        }
    }
}

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str("base"),
            Self::Debian { .. } => f.write_str("debian"),
        }
    }
}

/// The name of a Debian package (Debian Policy 5.6.1): it becomes a word of apt's command line, and no
/// option of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PackageName(String);

impl PackageName {
    /// Takes two or more of `a-z0-9+-.` of which the first is a letter or a digit.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let first = text.bytes().next().is_some_and(plain);
        let rest = text.bytes().all(|b| plain(b) || matches!(b, b'+' | b'-' | b'.'));
        // apt takes a name that ends in one of these for an order to remove or to install.
        let order = text.ends_with('-') || text.ends_with('+') && !text.ends_with("++");
        (first && rest && !order && (2..=PACKAGE_BYTES_MAX).contains(&text.len())).then(|| Self(text.to_owned()))
    }
    /// It.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl TryFrom<String> for PackageName {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("no name of a package")
    }
}
impl From<PackageName> for String {
    fn from(name: PackageName) -> Self {
        name.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_names_and_not_options() {
        for good in ["vim", "g++", "libc6-dev", "python3.11", "7zip", "libstdc++6"] {
            assert!(PackageName::parse(good).is_some(), "{good}");
        }
        let long = "a".repeat(PACKAGE_BYTES_MAX + 1);
        for bad in [
            "",
            "a",
            "-y",
            "Vim",
            "vim ",
            "vim;reboot",
            "../x",
            "vim/testing",
            "vim=1",
            "vim-",
            "vim+",
            "?essential",
            &long,
        ] {
            assert!(PackageName::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_recipe_is_what_was_asked_for_or_says_what_is_wrong() {
        let of = |name: &str, include: &[&str]| {
            let include: Vec<String> = include.iter().map(|text| (*text).to_owned()).collect();
            Recipe::parse(name, None, &include)
        };
        assert_eq!(of("base", &[]).unwrap(), Recipe::Base);
        let vim = vec![PackageName::parse("vim").unwrap()];
        assert_eq!(of("debian", &["vim"]).unwrap(), Recipe::Debian { include: vim, kind: GuestKind::Vm });
        let many = vec!["vim"; PACKAGES_MAX + 1];
        for bad in [("cake", &[][..]), ("base", &["vim"]), ("debian", &["-y"]), ("debian", &many)] {
            assert!(of(bad.0, bad.1).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn base_is_written_as_it_always_was() {
        assert_eq!(serde_json::to_string(&Recipe::Base).unwrap(), "\"base\"");
        let debian = Recipe::parse("debian", Some("sandbox"), &["vim".to_owned()]).unwrap();
        let json = serde_json::to_string(&debian).unwrap();
        assert_eq!(serde_json::from_str::<Recipe>(&json).unwrap(), debian);
        assert!(serde_json::from_str::<Recipe>(&json.replace("vim", "-y")).is_err());
        let before = r#"{"debian":{"include":[]}}"#;
        let vm = Recipe::Debian { include: vec![], kind: GuestKind::Vm };
        assert_eq!(serde_json::from_str::<Recipe>(before).unwrap(), vm);
        assert!(Recipe::parse("debian", Some("cake"), &[]).is_err());
        assert!(Recipe::parse("base", Some("vm"), &[]).is_err());
    }
}
