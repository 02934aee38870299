//! Who asks, and whether they may. Deny by default.

use crate::{Code, Refusal};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Owner of guests, images, keys and quotas. `default` on a machine with one owner.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tenant(String);

impl Tenant {
    /// A tenant is named like everything else.
    pub fn new(name: &crate::Name) -> Self {
        Self(name.as_str().to_owned())
    }
    /// The tenant of an installation with one owner.
    pub fn first() -> Self {
        Self("default".to_owned())
    }
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// From a stored row, which was checked when it was written.
    pub fn stored(text: String) -> Self {
        Self(text)
    }
}
impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a caller may do at most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees.
    Viewer,
    /// Sees, creates, runs, deletes guests and images of the own tenant.
    Operator,
    /// Everything, hosts and tokens included.
    Admin,
}

/// Proof of authentication: only `control::keys` makes one. Every verb takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// Whose objects are visible.
    pub tenant: Tenant,
    /// Recorded in the audit event.
    pub actor: String,
    /// What they may do.
    pub role: Role,
}

/// What is about to happen, as far as permission is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verb {
    /// Look at guests, images, tasks, executions, hosts.
    See,
    /// Create, run in, change or delete guests and images; cancel tasks.
    Operate,
    /// Hosts, join tokens, keys.
    Administer,
}

impl Who {
    /// The one place a verb is allowed or refused.
    ///
    /// # Errors
    /// `Denied` with the role that would do.
    pub fn authorize(&self, verb: Verb) -> Result<(), Refusal> {
        let needed = match verb {
            Verb::See => Role::Viewer,
            Verb::Operate => Role::Operator,
            Verb::Administer => Role::Admin,
        };
        if self.role >= needed {
            return Ok(());
        }
        let text = format!("this needs the role {needed:?}; the key has {:?}", self.role);
        Err(Refusal::new(Code::Denied, text.to_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_a_ladder() {
        let may = |role, verb| Who { tenant: Tenant::first(), actor: "a".into(), role }.authorize(verb).is_ok();
        let table = [(Role::Viewer, 1), (Role::Operator, 2), (Role::Admin, 3)];
        for (role, count) in table {
            let allowed = [Verb::See, Verb::Operate, Verb::Administer];
            assert_eq!(allowed.iter().filter(|v| may(role, **v)).count(), count);
        }
    }
}
