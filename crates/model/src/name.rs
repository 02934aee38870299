//! Names and labels: what people call things.

use crate::limits::{LABEL_CHARS_MAX, LABELS_MAX, NAME_CHARS_MAX};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// A DNS label (RFC 1035): lower-case letters, digits and inner hyphens, 1 to 63 characters.
/// Such a name is safe in paths, arguments, host names and URLs without quoting.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// Nothing, or more than 63 characters.
    #[error("a name has 1 to {NAME_CHARS_MAX} characters")]
    Length,
    /// A character outside the set, or a hyphen at an end.
    #[error("a name has only a-z, 0-9 and inner hyphens, for example web-1")]
    Character,
}

impl Name {
    /// Takes a DNS label.
    ///
    /// # Errors
    /// `BadName` says which rule was broken.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        if text.is_empty() || text.len() > NAME_CHARS_MAX {
            return Err(BadName::Length);
        }
        let plain = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if !plain || text.starts_with('-') || text.ends_with('-') {
            return Err(BadName::Character);
        }
        Ok(Self(text.to_owned()))
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl TryFrom<String> for Name {
    type Error = BadName;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}
impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Key-value marks, sorted by key.
pub type Labels = BTreeMap<String, String>;

/// Says what is wrong with a set of labels, if anything is.
pub fn labels_fault(labels: &Labels) -> Option<String> {
    if labels.len() > LABELS_MAX {
        return Some(format!("at most {LABELS_MAX} labels"));
    }
    let key_fits = |k: &str| {
        !k.is_empty()
            && k.len() <= LABEL_CHARS_MAX
            && k.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/'))
    };
    let value_fits = |v: &str| v.len() <= LABEL_CHARS_MAX && !v.chars().any(char::is_control);
    if let Some((key, _)) = labels.iter().find(|(k, v)| !key_fits(k) || !value_fits(v)) {
        let shown: String = key.chars().filter(|c| !c.is_control()).take(40).collect();
        return Some(format!(
            "label {shown:?}: keys are letters, digits and -_./ ; keys and values have at most {LABEL_CHARS_MAX} characters"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web-1", "0", &"x".repeat(63)] {
            assert!(Name::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "-rf", "a-", "A", "a/b", "a\nb", "ä", "a.b", "a b", &"x".repeat(300)] {
            assert!(Name::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn labels_are_bounded() {
        let one = |k: &str, v: &str| Labels::from([(k.to_owned(), v.to_owned())]);
        assert_eq!(labels_fault(&one("team/web", "blue green")), None);
        assert!(labels_fault(&one("", "x")).is_some());
        assert!(labels_fault(&one("k", "a\u{7}")).is_some());
        assert!(labels_fault(&one("k", &"x".repeat(129))).is_some());
        let many = (0..33).map(|i| (format!("k{i}"), String::new())).collect();
        assert!(labels_fault(&many).is_some());
    }
}
