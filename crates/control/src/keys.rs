//! Keys: who a token belongs to. Tokens are 256 random bits; only their SHA-256 is kept.

use crate::{Cause, Control, refuse_store};
use perigee_model::limits::JOIN_TOKEN_LIFE;
use perigee_model::{Code, Refusal, Role, Tenant, Timestamp, Verb, Who};
use perigee_store::{Batch, Key, Record};
use sha2::{Digest as _, Sha256};
use std::time::Duration;

/// A new secret, shown once.
#[derive(Clone)]
pub struct Secret(pub String);

impl Control {
    /// Whose token this is. The only maker of a [`Who`].
    ///
    /// # Errors
    /// `NoToken` for an unknown or expired one, without saying which.
    pub fn authenticate(&self, token: &str) -> Result<Who, Refusal> {
        let unknown = || Refusal::new(Code::NoToken, "the token is not known or has expired");
        let key = self.view().key(&digest(token)).ok_or_else(unknown)?;
        let role = key.role.ok_or_else(unknown)?;
        if key.expires_at.is_some_and(|at| at <= self.clock().now()) {
            return Err(unknown());
        }
        Ok(Who { tenant: key.tenant.clone(), actor: key.name.clone(), role })
    }

    /// Makes a key for a program or person.
    ///
    /// # Errors
    /// What the store says.
    pub async fn mint_key(&self, name: &str, tenant: Tenant, role: Role) -> Result<Secret, Refusal> {
        let secret = self.new_secret();
        self.keep_key(&secret, name, tenant, Some(role), None, &Cause::default()).await?;
        Ok(secret)
    }

    /// Makes a token that enrols one host.
    ///
    /// # Errors
    /// `Denied`, `BadField`, or what the store says.
    pub async fn mint_join_secret(
        &self,
        who: &Who,
        life: Option<Duration>,
        cause: &Cause,
    ) -> Result<(Secret, Timestamp), Refusal> {
        who.authorize(Verb::Administer)?;
        let life = life.unwrap_or(JOIN_TOKEN_LIFE);
        if life.is_zero() || life > JOIN_TOKEN_LIFE {
            let text = format!("ttl_ms is 1 to {}", JOIN_TOKEN_LIFE.as_millis());
            return Err(Refusal::field("ttl_ms", text));
        }
        let secret = self.new_secret();
        let expires = self.clock().now() + life;
        self.keep_key(&secret, &who.actor, who.tenant.clone(), None, Some(expires), cause).await?;
        Ok((secret, expires))
    }

    /// Whether a key with this token is kept already.
    pub fn knows_token(&self, token: &str) -> bool {
        self.view().key(&digest(token)).is_some()
    }

    /// The join key a secret stands for, to be consumed with the enrolment.
    pub(crate) fn join_key(&self, secret: &str) -> Result<Key, Refusal> {
        let refused = || Refusal::new(Code::BadJoinToken, "the join token is not known, was used, or has expired");
        let key = self.view().key(&digest(secret)).ok_or_else(refused)?;
        let fresh = key.expires_at.is_some_and(|at| at > self.clock().now());
        if key.role.is_some() || !fresh {
            return Err(refused());
        }
        Ok(key.as_ref().clone())
    }

    pub(crate) fn new_secret(&self) -> Secret {
        Secret(hex::encode(self.clock().random::<32>()))
    }

    async fn keep_key(
        &self,
        secret: &Secret,
        name: &str,
        tenant: Tenant,
        role: Option<Role>,
        expires_at: Option<Timestamp>,
        cause: &Cause,
    ) -> Result<(), Refusal> {
        let key = Key {
            digest: digest(&secret.0),
            name: name.to_owned(),
            tenant: tenant.clone(),
            role,
            created_at: self.clock().now(),
            expires_at,
            revision: 1,
        };
        let verb = if role.is_some() { "key.create" } else { "token.create" };
        let mut batch = Batch::default();
        // The digest is not an id to show: the audit names the key by the first digits only.
        let subject = ("token", key.digest[..12].to_owned());
        batch.events.push(self.event((&tenant, name), verb, subject, cause, ""));
        batch.idempotency = cause.row("");
        batch.insert(Record::Key(key));
        self.commit(batch).await.map_err(refuse_store)
    }
}

/// SHA-256 of a token, hex.
pub(crate) fn digest(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}
