//! The two engines behind one set of statements.
//!
//! Owns: connections, values, and the few sentences the engines do not share (opening a
//! transaction, looking for a table). Everything else is one text for both: `$1` placeholders,
//! `ON CONFLICT`, savepoints.
//! Refuses: knowing any noun.

use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgRow};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{Arguments, AssertSqlSafe, ConnectOptions, Connection, Database, Encode, FromRow, Postgres, Sqlite, Type};
use std::sync::Arc;
use std::time::Duration;

/// How long a connection to a server may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One value of a statement. Absent values keep their type: PostgreSQL needs it.
#[derive(Clone, Debug)]
pub(super) enum Value {
    Text(Option<String>),
    Int(Option<i64>),
    Flag(bool),
    Bytes(Vec<u8>),
}

/// A row that both engines can give.
pub(super) trait Shape: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}
impl<T> Shape for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

/// Where a connection comes from, again and again.
#[derive(Clone)]
pub(super) enum Engine {
    Sqlite(Box<SqliteConnectOptions>),
    Postgres(Box<PgConnectOptions>),
}

impl Engine {
    /// A connection of its own, outside of any pool.
    pub async fn connect(&self) -> Result<Link, sqlx::Error> {
        match self {
            Self::Sqlite(options) => Ok(Link::Sqlite(Box::new(options.connect().await?))),
            Self::Postgres(options) => {
                let connecting = tokio::time::timeout(CONNECT_TIMEOUT, options.connect());
                let mut link = Link::Postgres(Box::new(connecting.await.map_err(|_| sqlx::Error::PoolTimedOut)??));
                link.insist_on_durability().await?;
                Ok(link)
            }
        }
    }

    /// Opens a transaction that may write. With PostgreSQL the lock makes the numbers of events
    /// follow the order of commits, however many processes there are.
    pub fn begin(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "BEGIN IMMEDIATE",
            Self::Postgres(_) => "BEGIN; SELECT pg_advisory_xact_lock(5787213827046133840)",
        }
    }

    /// Counts the tables called `schema_version`: 0 or 1.
    pub fn schema_version_tables(&self) -> &'static str {
        match self {
            Self::Sqlite(_) => "SELECT count(*) FROM sqlite_schema WHERE name = 'schema_version'",
            Self::Postgres(_) => {
                "SELECT count(*) FROM pg_catalog.pg_tables WHERE tablename = 'schema_version' AND schemaname = current_schema()"
            }
        }
    }
}

/// One connection.
pub(super) enum Link {
    Sqlite(Box<SqliteConnection>),
    Postgres(Box<PgConnection>),
}

impl Link {
    /// Runs one statement; gives the number of rows it touched.
    pub async fn execute(&mut self, text: &Arc<str>, values: &[Value]) -> Result<u64, sqlx::Error> {
        let text = AssertSqlSafe(Arc::clone(text));
        match self {
            Self::Sqlite(link) => {
                let arguments = arguments::<Sqlite>(values)?;
                let done = sqlx::query_with::<Sqlite, _>(text, arguments).execute(&mut **link).await?;
                Ok(done.rows_affected())
            }
            Self::Postgres(link) => {
                let arguments = arguments::<Postgres>(values)?;
                let done = sqlx::query_with::<Postgres, _>(text, arguments).execute(&mut **link).await?;
                Ok(done.rows_affected())
            }
        }
    }

    /// Runs a script without values: `COMMIT`, a migration.
    pub async fn script(&mut self, text: &'static str) -> Result<(), sqlx::Error> {
        match self {
            Self::Sqlite(link) => sqlx::raw_sql(text).execute(&mut **link).await.map(|_| ()),
            Self::Postgres(link) => sqlx::raw_sql(text).execute(&mut **link).await.map(|_| ()),
        }
    }

    /// Reads rows.
    pub async fn rows<T: Shape>(&mut self, text: &'static str) -> Result<Vec<T>, sqlx::Error> {
        match self {
            Self::Sqlite(link) => sqlx::query_as::<Sqlite, T>(text).fetch_all(&mut **link).await,
            Self::Postgres(link) => sqlx::query_as::<Postgres, T>(text).fetch_all(&mut **link).await,
        }
    }

    /// Says goodbye. Errors are of no use to anybody then.
    pub async fn close(self) {
        let closed = match self {
            Self::Sqlite(link) => link.close().await,
            Self::Postgres(link) => link.close().await,
        };
        if let Err(error) = closed {
            tracing::debug!(%error, "closing the store's connection");
        }
    }

    /// A server configured to acknowledge before it has written would break our promise.
    async fn insist_on_durability(&mut self) -> Result<(), sqlx::Error> {
        let set: Vec<(String,)> = self.rows("SELECT current_setting('synchronous_commit')").await?;
        if set.iter().any(|(value,)| value == "off") {
            self.script("SET synchronous_commit = on").await?;
        }
        Ok(())
    }
}

/// The connections that read.
pub(super) enum Readers {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

impl Readers {
    /// Reads rows.
    pub async fn rows<T: Shape>(&self, text: impl Into<Arc<str>>, values: &[Value]) -> Result<Vec<T>, sqlx::Error> {
        let text = AssertSqlSafe(text.into());
        match self {
            Self::Sqlite(pool) => {
                let arguments = arguments::<Sqlite>(values)?;
                sqlx::query_as_with::<Sqlite, T, _>(text, arguments).fetch_all(pool).await
            }
            Self::Postgres(pool) => {
                let arguments = arguments::<Postgres>(values)?;
                sqlx::query_as_with::<Postgres, T, _>(text, arguments).fetch_all(pool).await
            }
        }
    }

    /// Waits until nobody reads, then closes.
    pub async fn close(&self) {
        match self {
            Self::Sqlite(pool) => pool.close().await,
            Self::Postgres(pool) => pool.close().await,
        }
    }
}

fn arguments<D>(values: &[Value]) -> Result<D::Arguments, sqlx::Error>
where
    D: Database,
    D::Arguments: Arguments<Database = D>,
    for<'q> Option<String>: Encode<'q, D> + Type<D>,
    for<'q> Option<i64>: Encode<'q, D> + Type<D>,
    for<'q> bool: Encode<'q, D> + Type<D>,
    for<'q> Vec<u8>: Encode<'q, D> + Type<D>,
{
    let mut arguments = D::Arguments::default();
    for value in values {
        match value {
            Value::Text(text) => arguments.add(text.clone()),
            Value::Int(number) => arguments.add(*number),
            Value::Flag(flag) => arguments.add(*flag),
            Value::Bytes(bytes) => arguments.add(bytes.clone()),
        }
        .map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}
