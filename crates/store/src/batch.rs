//! Batches: whole decisions.

use perigee_model::{Backup, Event, Execution, Guest, Host, Image, Network, Role, Task, Tenant, Timestamp, Volume};
use serde::{Deserialize, Serialize};

/// The kinds of records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Noun {
    /// Machines with an agent.
    Host,
    /// VMs and sandboxes.
    Guest,
    /// What they start from.
    Image,
    /// Units of the queue.
    Task,
    /// Commands run in guests.
    Execution,
    /// API keys and join tokens, as hashes.
    Key,
    /// Disks of VMs, kept away from them.
    Backup,
    /// Disks that outlive guests.
    Volume,
    /// What VMs' cards are on.
    Network,
}

impl Noun {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Host,
        Self::Guest,
        Self::Image,
        Self::Task,
        Self::Execution,
        Self::Key,
        Self::Backup,
        Self::Volume,
        Self::Network,
    ];
}

/// A secret somebody can show, kept as SHA-256 only.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Key {
    /// SHA-256 of the token text, hex: also the row's id.
    pub digest: String,
    /// For the audit: who uses it.
    pub name: String,
    /// Whose objects it sees.
    pub tenant: Tenant,
    /// What it may do; `None` for a join token, which may only enrol one host.
    pub role: Option<Role>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Refused from then on.
    pub expires_at: Option<Timestamp>,
    /// Bumped by each write.
    pub revision: u64,
}

/// One record of any noun.
#[expect(clippy::large_enum_variant, reason = "a batch holds a handful of records, and most are guests")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// A host.
    Host(Host),
    /// A guest.
    Guest(Guest),
    /// An image.
    Image(Image),
    /// A task.
    Task(Task),
    /// An execution.
    Execution(Execution),
    /// A key.
    Key(Key),
    /// A backup.
    Backup(Backup),
    /// A volume.
    Volume(Volume),
    /// A network.
    Network(Network),
}

impl Record {
    /// Its noun.
    pub fn noun(&self) -> Noun {
        match self {
            Self::Host(_) => Noun::Host,
            Self::Guest(_) => Noun::Guest,
            Self::Image(_) => Noun::Image,
            Self::Task(_) => Noun::Task,
            Self::Execution(_) => Noun::Execution,
            Self::Key(_) => Noun::Key,
            Self::Backup(_) => Noun::Backup,
            Self::Volume(_) => Noun::Volume,
            Self::Network(_) => Noun::Network,
        }
    }
    /// Its id as text.
    pub fn id(&self) -> String {
        match self {
            Self::Host(r) => r.id.to_string(),
            Self::Guest(r) => r.id.to_string(),
            Self::Image(r) => r.id.to_string(),
            Self::Task(r) => r.id.to_string(),
            Self::Execution(r) => r.id.to_string(),
            Self::Key(r) => r.digest.clone(),
            Self::Backup(r) => r.id.to_string(),
            Self::Volume(r) => r.id.to_string(),
            Self::Network(r) => r.id.to_string(),
        }
    }
    /// Its revision.
    pub fn revision(&self) -> u64 {
        match self {
            Self::Host(r) => r.revision,
            Self::Guest(r) => r.revision,
            Self::Image(r) => r.revision,
            Self::Task(r) => r.revision,
            Self::Execution(r) => r.revision,
            Self::Key(r) => r.revision,
            Self::Backup(r) => r.revision,
            Self::Volume(r) => r.revision,
            Self::Network(r) => r.revision,
        }
    }
    /// The name that must be unique: (tenant, name) among living guests, images, backups, volumes and networks,
    /// name among hosts.
    pub fn unique_name(&self) -> Option<(String, String)> {
        match self {
            Self::Host(r) => Some((String::new(), r.name.to_string())),
            Self::Guest(r) if !r.is_gone() => Some((r.tenant.to_string(), r.name.to_string())),
            Self::Image(r) => Some((r.tenant.to_string(), r.name.to_string())),
            Self::Backup(r) => Some((r.tenant.to_string(), r.name.to_string())),
            Self::Volume(r) => Some((r.tenant.to_string(), r.name.to_string())),
            Self::Network(r) => Some((r.tenant.to_string(), r.name.to_string())),
            Self::Guest(_) | Self::Task(_) | Self::Execution(_) | Self::Key(_) => None,
        }
    }
}

/// What must be so for a change to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// No such record yet.
    New,
    /// The record has this revision; the new one carries this revision + 1.
    Revision(u64),
}

/// One change of one record.
#[allow(clippy::large_enum_variant, reason = "a batch has a handful of changes, nearly all of them Put")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Write it.
    Put(Record, Expect),
    /// Remove it.
    Delete(Noun, String),
}

/// What was asked for under an idempotency key, and what was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IdempotencyRow {
    /// Tenant, actor and route: a key is known only there.
    pub scope: String,
    /// The caller's key.
    pub key: String,
    /// SHA-256 of the request's body, hex.
    pub fingerprint: String,
    /// The task the request made.
    pub subject: String,
    /// When.
    pub at: Timestamp,
    /// Status and body once they were sent.
    pub answer: Option<(u16, String)>,
}

/// A whole decision: all of it is written, or nothing.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// In this order.
    pub changes: Vec<Change>,
    /// The audit events of these changes.
    pub events: Vec<Event>,
    /// The key under which a caller asked for them. `KeyUsed` if it exists.
    pub idempotency: Option<IdempotencyRow>,
}

impl Batch {
    /// Adds a new record.
    pub fn insert(&mut self, record: Record) {
        self.changes.push(Change::Put(record, Expect::New));
    }
    /// Adds a record whose revision the caller has already bumped by one.
    pub fn update(&mut self, record: Record) {
        let was = record.revision().saturating_sub(1);
        self.changes.push(Change::Put(record, Expect::Revision(was)));
    }
    /// Whether there is anything to write.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.events.is_empty() && self.idempotency.is_none()
    }
}
