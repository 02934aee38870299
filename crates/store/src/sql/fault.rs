//! What an engine's error means to us.
//!
//! Owns: the one place where error codes of SQLite and PostgreSQL are read.

use crate::{Noun, StoreError};
use std::fmt;
use std::sync::Arc;

/// How a piece of work failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// The work itself is refused; the connection and its transaction are fine.
    Refused(StoreError),
    /// A unique index said no; the caller knows which name that was.
    Unique(Arc<sqlx::Error>),
    /// No space left; nothing was written.
    Full,
    /// The engine refused the statement; nothing was written.
    Statement(Arc<sqlx::Error>),
    /// The connection is gone, and whether the work was written is not known. A new one helps.
    Lost(Arc<sqlx::Error>),
    /// Reading or writing the file failed: what it holds now is not known, and no later answer of
    /// this engine can be trusted (a failed fsync is not repeated by the kernel).
    Fatal(Arc<sqlx::Error>),
}

impl Fault {
    /// For one of the callers whose work this was.
    pub fn for_caller(&self) -> StoreError {
        match self {
            Self::Full => StoreError::DiskFull,
            Self::Refused(refusal) => StoreError::Engine(refusal.to_string().into()),
            Self::Unique(error) | Self::Statement(error) | Self::Lost(error) | Self::Fatal(error) => {
                StoreError::Engine(Box::new(Shared(Arc::clone(error))))
            }
        }
    }

    /// Whether the work was certainly not written and may be tried again, each batch alone.
    pub fn is_clean(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Unique(_) | Self::Full | Self::Statement(_) => true,
            Self::Lost(_) | Self::Fatal(_) => false,
        }
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        let code = code_of(&error);
        let error = Arc::new(error);
        match code {
            Code::Sqlite(code) => from_sqlite(code, error),
            Code::Postgres(code) => from_postgres(&code, error),
            Code::None => match &*error {
                sqlx::Error::WorkerCrashed => Self::Fatal(error),
                sqlx::Error::Encode(_) => Self::Statement(error),
                _ => Self::Lost(error),
            },
        }
    }
}

enum Code {
    Sqlite(i32),
    Postgres(String),
    None,
}

fn code_of(error: &sqlx::Error) -> Code {
    let Some(error) = error.as_database_error() else { return Code::None };
    let code = error.code().unwrap_or_default();
    if error.try_downcast_ref::<sqlx::sqlite::SqliteError>().is_some() {
        return Code::Sqlite(code.parse().unwrap_or(1));
    }
    Code::Postgres(code.into_owned())
}

/// Extended result codes: <https://www.sqlite.org/rescode.html>. The low byte is the primary one.
fn from_sqlite(code: i32, error: Arc<sqlx::Error>) -> Fault {
    const FULL: i32 = 13;
    const IOERR: i32 = 10;
    const IOERR_SHMSIZE: i32 = 4874;
    const CORRUPT: i32 = 11;
    const NOTADB: i32 = 26;
    const CONSTRAINT_PRIMARYKEY: i32 = 1555;
    const CONSTRAINT_UNIQUE: i32 = 2067;
    match (code, code & 0xff) {
        (IOERR_SHMSIZE, _) | (_, FULL) => Fault::Full,
        (CONSTRAINT_UNIQUE | CONSTRAINT_PRIMARYKEY, _) => Fault::Unique(error),
        (_, IOERR | CORRUPT | NOTADB) => Fault::Fatal(error),
        _ => Fault::Statement(error),
    }
}

/// SQLSTATE: <https://www.postgresql.org/docs/15/errcodes-appendix.html>.
fn from_postgres(code: &str, error: Arc<sqlx::Error>) -> Fault {
    match code {
        "53100" => Fault::Full,
        "23505" => Fault::Unique(error),
        // Connection exceptions, and a server that is shutting down or has crashed.
        _ if code.starts_with("08") || code.starts_with("57P") => Fault::Lost(error),
        _ => Fault::Statement(error),
    }
}

/// What a read of `noun` failed with.
pub(super) fn reading(noun: Noun, error: sqlx::Error) -> StoreError {
    let damaged = match &error {
        sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_) => true,
        _ => matches!(code_of(&error), Code::Sqlite(code) if matches!(code & 0xff, 11 | 26)),
    };
    if damaged {
        return StoreError::Damaged { noun, text: error.to_string() };
    }
    engine(error)
}

/// What opening failed with.
pub(super) fn opening(error: sqlx::Error) -> StoreError {
    Fault::from(error).for_caller()
}

/// Any error of the engine that needs no closer look.
pub(super) fn engine(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> StoreError {
    StoreError::Engine(error.into())
}

/// One error told to many callers.
#[derive(Debug)]
struct Shared(Arc<sqlx::Error>);

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Shared {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
