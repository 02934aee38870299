//! Identities. Every id is a UUIDv7 (RFC 9562): sortable by the millisecond it was made in.
//! Ids are made where time and randomness are known (`clock`), never here.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Wraps a UUID that `clock` made or that came from outside.
            pub const fn new(uuid: Uuid) -> Self {
                Self(uuid)
            }
            /// The bare UUID.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
            /// The last twelve hex digits: random, so short names made from them seldom clash.
            pub fn short(self) -> String {
                let text = self.0.simple().to_string();
                text[20..].to_owned()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0.hyphenated())
            }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::try_parse(text).map(Self)
            }
        }
    };
}

id!(
    /// A machine with an agent.
    HostId
);
id!(
    /// A VM or a sandbox.
    GuestId
);
id!(
    /// What a guest starts from.
    ImageId
);
id!(
    /// One unit in the queue.
    TaskId
);
id!(
    /// One command's run in a guest.
    ExecutionId
);
id!(
    /// A point in a VM's life.
    SnapshotId
);
id!(
    /// A VM's disk, kept away from the VM.
    BackupId
);
id!(
    /// A disk of its own, which outlives the VMs it is attached to.
    VolumeId
);
id!(
    /// A network that VMs of one host are on.
    NetworkId
);
id!(
    /// One audit event.
    EventId
);
id!(
    /// One life of an agent process.
    RunId
);

/// Eight hex digits that mark everything one Perigee instance makes on a host.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(String);

impl InstanceId {
    /// Takes eight lower-case hex digits, refuses anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        fits.then(|| Self(text.to_owned()))
    }
    /// Made from 32 random bits.
    pub fn from_bits(bits: u32) -> Self {
        Self(format!("{bits:08x}"))
    }
    /// The eight digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The 32 bits the digits stand for.
    pub fn bits(&self) -> u32 {
        u32::from_str_radix(&self.0, 16).unwrap_or(0)
    }
}
impl TryFrom<String> for InstanceId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text).ok_or("an instance id is eight hex digits")
    }
}
impl From<InstanceId> for String {
    fn from(id: InstanceId) -> Self {
        id.0
    }
}
impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
