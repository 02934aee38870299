//! Refusals: the one error at the top, and the published codes.
//!
//! Eight kinds say what a caller can do; a code says precisely what happened and has a page in
//! docs/errors/. Nothing finer exists, and no cause ever reaches the caller.

use std::fmt;

/// What the caller can do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Change the request.
    Invalid,
    /// Show who you are.
    Unauthenticated,
    /// Ask somebody who may.
    Denied,
    /// Look for another name.
    NotFound,
    /// Look at the present state, then decide again.
    Conflict,
    /// Wait, or free something.
    Exhausted,
    /// Try again later.
    Unavailable,
    /// Report it.
    Bug,
}

macro_rules! codes {
    ($($variant:ident $number:literal $kind:ident $title:literal,)*) => {
        /// Published codes. The number never changes its meaning.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum Code { $(#[doc = $title] $variant,)* }
        impl Code {
            /// Every code, in the order of its number.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];
            /// `PRG-NNNN`.
            pub const fn number(self) -> &'static str {
                match self { $(Code::$variant => $number,)* }
            }
            /// What the caller can do.
            pub const fn kind(self) -> Kind {
                match self { $(Code::$variant => Kind::$kind,)* }
            }
            /// The title: the same for every occurrence (RFC 9457).
            pub const fn title(self) -> &'static str {
                match self { $(Code::$variant => $title,)* }
            }
            /// Back from `PRG-NNNN`.
            pub fn parse(number: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|c| c.number() == number)
            }
        }
    };
}

codes! {
    BadRequest "PRG-1001" Invalid "The request is not well-formed",
    BadField "PRG-1002" Invalid "A field has a value that is not allowed",
    UnknownField "PRG-1003" Invalid "A field is not known",
    TooLarge "PRG-1004" Invalid "The request is too large",
    BadMediaType "PRG-1005" Invalid "The body is not JSON",
    BadPageToken "PRG-1006" Invalid "The page token does not belong to this list",
    NoSuchRoute "PRG-1007" NotFound "There is no such route",
    WrongMethod "PRG-1008" Invalid "The route does not know this method",
    BadIdempotencyKey "PRG-1009" Invalid "The idempotency key was used for another request",
    IdempotencyInFlight "PRG-1010" Conflict "The first request with this idempotency key is still running",
    PreconditionRequired "PRG-1011" Invalid "If-Match is required",
    PreconditionFailed "PRG-1012" Conflict "The object has changed since it was read",
    NotAWebSocket "PRG-1013" Invalid "This route speaks WebSocket",
    BadQuery "PRG-1014" Invalid "The query cannot be answered as it is asked",
    StaleTimestamp "PRG-1015" Invalid "The timestamp is too old",
    FutureTimestamp "PRG-1016" Invalid "The timestamp lies in the future",
    NoToken "PRG-2001" Unauthenticated "No token, or not a valid one",
    WrongOrigin "PRG-2002" Denied "The Host or Origin of the request is not allowed",
    Denied "PRG-2003" Denied "The key's role does not allow this",
    BadJoinToken "PRG-2004" Unauthenticated "The join token is not valid",
    BadCertificate "PRG-2005" Unauthenticated "The agent's certificate is not valid",
    HostRevoked "PRG-2006" Denied "The host was revoked",
    VersionRefused "PRG-2007" Invalid "The two programs speak no common version",
    IngestTokenEnded "PRG-2008" Unauthenticated "The ingest token is no longer good",
    WrongHost "PRG-2009" Denied "The token is for another host",
    BadSignature "PRG-2010" Unauthenticated "The body is not signed with the host's key",
    NoSuchHost "PRG-3001" NotFound "There is no such host",
    NoSuchGuest "PRG-3002" NotFound "There is no such guest",
    NoSuchImage "PRG-3003" NotFound "There is no such image",
    NoSuchTask "PRG-3004" NotFound "There is no such task",
    NoSuchExecution "PRG-3005" NotFound "There is no such execution",
    NoSuchFile "PRG-3006" NotFound "There is no such file in the guest",
    NoSuchCommand "PRG-3007" NotFound "There is no such command",
    NoSuchSeat "PRG-3010" NotFound "The guest has no such console",
    NoSuchForward "PRG-3011" NotFound "There is no such forward",
    NoSuchSnapshot "PRG-3015" NotFound "The VM has no such snapshot",
    NoSuchVolume "PRG-3016" NotFound "There is no such volume",
    NoSuchBackup "PRG-3020" NotFound "There is no such backup",
    NoSuchNetwork "PRG-3026" NotFound "There is no such network",
    NoSuchBridge "PRG-3027" NotFound "The host has no such bridge",
    NameTaken "PRG-4001" Conflict "The name is taken",
    GuestNotRunning "PRG-4002" Conflict "The guest is not running",
    ImageNotReady "PRG-4003" Conflict "The image is not ready",
    ImageInUse "PRG-4004" Conflict "The image is in use",
    TaskFinished "PRG-4005" Conflict "The task has already ended",
    HostInUse "PRG-4006" Conflict "The host still has guests",
    WriteConflict "PRG-4007" Conflict "Another request changed the object first",
    DuplicateSequence "PRG-4008" Conflict "The sequence id was taken before",
    TwinAgent "PRG-4009" Conflict "Two agents have the identity of one host",
    PortTaken "PRG-4011" Conflict "The port of the host is taken",
    NoCard "PRG-4012" Conflict "The sandbox can have no card there",
    NoSnapshots "PRG-4015" Conflict "The guest can have no snapshots",
    VolumeBusy "PRG-4016" Conflict "Something else is being done with the volume",
    VolumeAttached "PRG-4017" Conflict "The volume is attached",
    VolumeNotAttached "PRG-4018" Conflict "The volume is not attached",
    VolumeElsewhere "PRG-4019" Conflict "The volume and the VM cannot come together",
    NoBackups "PRG-4020" Conflict "The guest cannot be backed up",
    BackupInUse "PRG-4021" Conflict "The backup is in use",
    NetworkBusy "PRG-4026" Conflict "Something else is being done with the network",
    NetworkInUse "PRG-4027" Conflict "The network is in use",
    NetworkElsewhere "PRG-4028" Conflict "The network is on another host",
    SubnetTaken "PRG-4029" Conflict "The subnet is taken",
    NoRoom "PRG-5001" Exhausted "No host has room for the guest",
    TooManyTasks "PRG-5002" Exhausted "Too many tasks are waiting",
    DiskFull "PRG-5003" Exhausted "The disk is full",
    TooManyExecutions "PRG-5004" Exhausted "Too many executions in this guest",
    QueryTooLarge "PRG-5005" Exhausted "The query reads too much",
    TooManyReports "PRG-5006" Exhausted "The host reports too often",
    TooManySnapshots "PRG-5015" Exhausted "The VM has too many snapshots",
    TooManyVolumes "PRG-5016" Exhausted "There are too many volumes",
    TooManyBackups "PRG-5020" Exhausted "The VM has too many backups",
    TooManyNetworks "PRG-5026" Exhausted "The host has too many networks",
    HostAway "PRG-6001" Unavailable "The host is not connected",
    ShuttingDown "PRG-6002" Unavailable "The control plane is shutting down",
    StoreDown "PRG-6003" Unavailable "The store does not answer",
    WaitTimedOut "PRG-6004" Unavailable "It was not done within the time that was waited",
    QueryTooSlow "PRG-6005" Unavailable "The query took too long",
    BootFailed "PRG-7001" Unavailable "The guest did not boot",
    ExecutionLost "PRG-7002" Unavailable "The guest no longer knows the execution",
    ChannelBroken "PRG-7003" Unavailable "The channel into the guest broke",
    ImageBuildFailed "PRG-7004" Unavailable "The image could not be built",
    TaskCancelled "PRG-7005" Conflict "The task was cancelled",
    TaskDeadline "PRG-7006" Unavailable "The task was not done before its deadline",
    FileRefused "PRG-7007" Invalid "The guest refused the file",
    GuestExpired "PRG-7008" Conflict "The sandbox reached its time to live",
    FrameRefused "PRG-7009" Invalid "Measurements were refused",
    SeriesDown "PRG-7010" Unavailable "Measurements cannot be read or written",
    ImageRefused "PRG-7011" Invalid "The image is not taken",
    ImageUnreachable "PRG-7012" Unavailable "The image cannot be fetched",
    SnapshotFailed "PRG-7015" Unavailable "The snapshot was not made, reverted to or deleted",
    VolumeFailed "PRG-7017" Unavailable "The volume was not made, attached, detached, resized or deleted",
    BackupFailed "PRG-7020" Unavailable "The backup was not made, checked or restored",
    NetworkFailed "PRG-7026" Unavailable "The network was not made or deleted",
    Bug "PRG-9001" Bug "Something is broken in Perigee",
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.number())
    }
}

/// Why something was not done.
#[derive(Debug, thiserror::Error)]
#[error("{code} {shown}")]
pub struct Refusal {
    /// The published code.
    pub code: Code,
    /// Safe for the caller: what is wrong and what would be right.
    pub shown: String,
    /// The field it is about, as a JSON pointer (RFC 6901).
    pub pointer: Option<String>,
    /// Wait this long before the next try.
    pub retry_after_s: Option<u64>,
    /// For the log only.
    #[source]
    pub cause: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Refusal {
    /// With a text for the caller.
    pub fn new(code: Code, shown: impl Into<String>) -> Self {
        Self { code, shown: shown.into(), pointer: None, retry_after_s: None, cause: None }
    }
    /// One field is wrong.
    pub fn field(field: &str, shown: impl Into<String>) -> Self {
        let mut refusal = Self::new(Code::BadField, shown);
        refusal.pointer = Some(format!("/{}", field.replace('.', "/")));
        refusal
    }
    /// With what lies behind it, for the log.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.cause = Some(cause.into());
        self
    }
    /// What the caller can do.
    pub fn kind(&self) -> Kind {
        self.code.kind()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_unique_and_sorted() {
        let numbers: Vec<_> = Code::ALL.iter().map(|c| c.number()).collect();
        assert!(numbers.windows(2).all(|w| w[0] < w[1]), "{numbers:?}");
        assert!(Code::ALL.iter().all(|c| Code::parse(c.number()) == Some(*c)));
    }
}
