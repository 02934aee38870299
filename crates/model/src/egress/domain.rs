//! Names of the internet that a policy lists.

use std::fmt;
use std::str::FromStr;

/// Longest name and longest label (RFC 1035).
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// A listed name: `example.com` is that name alone, `*.example.com` all names below it. Lower case, no dot at its
/// end. Letters beyond ASCII are written as they travel (`xn--…`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Domain {
    name: String,
    below: bool,
}

/// A text that is no name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a name is two labels at least of letters, digits and hyphens, with `*.` before it for all names below it")]
pub struct DomainError;

impl Domain {
    /// Whether a question for this name (any case, with or without the last dot) is meant.
    pub fn matches(&self, asked: &str) -> bool {
        let asked = asked.strip_suffix('.').unwrap_or(asked);
        if !self.below {
            return asked.eq_ignore_ascii_case(&self.name);
        }
        let Some(at) = asked.len().checked_sub(self.name.len() + 1).filter(|at| *at > 0) else { return false };
        let (head, tail) = (asked.as_bytes(), asked.as_bytes().get(at + 1..));
        head.get(at) == Some(&b'.') && tail.is_some_and(|tail| tail.eq_ignore_ascii_case(self.name.as_bytes()))
    }
}

impl FromStr for Domain {
    type Err = DomainError;
    fn from_str(text: &str) -> Result<Self, DomainError> {
        let (name, below) = text.strip_prefix("*.").map_or((text, false), |name| (name, true));
        let label = |label: &str| {
            (1..=LABEL_BYTES_MAX).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        let labels = || name.split('.');
        // The last label of an address is a number, that of a name never is.
        let numeric = labels().next_back().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        let fits = name.len() <= NAME_BYTES_MAX && labels().count() >= 2 && labels().all(label) && !numeric;
        if fits { Ok(Self { name: name.to_ascii_lowercase(), below }) } else { Err(DomainError) }
    }
}
impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain(text: &str) -> Domain {
        text.parse().unwrap()
    }

    #[test]
    fn one_name_is_that_name_alone() {
        let one = domain("PyPI.org");
        assert_eq!(one.to_string(), "pypi.org");
        for asked in ["pypi.org", "pypi.org.", "PYPI.ORG"] {
            assert!(one.matches(asked), "{asked}");
        }
        for asked in ["www.pypi.org", "pypi.org.evil.net", "xpypi.org", "org", "", "pypi.org.."] {
            assert!(!one.matches(asked), "{asked}");
        }
    }

    #[test]
    fn a_star_is_all_names_below() {
        let below = domain("*.example.com");
        for asked in ["a.example.com", "a.b.Example.Com."] {
            assert!(below.matches(asked), "{asked}");
        }
        for asked in ["example.com", ".example.com", "evilexample.com", "example.com.evil.net", "com", "a.example.comx"]
        {
            assert!(!below.matches(asked), "{asked}");
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        let long = format!("{}.com", "a".repeat(64));
        let longer = ["abcdefgh."; 29].concat() + "com";
        for bad in ["", "localhost", "a..b", "a b.com", "-a.com", "*.com.", "*a.com", "1.2.3.4", "é.fr", &long, &longer]
        {
            assert_eq!(bad.parse::<Domain>(), Err(DomainError), "{bad}");
        }
        assert!("*.com".parse::<Domain>().is_err(), "a whole top-level domain");
    }
}
