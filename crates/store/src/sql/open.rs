//! Opening: which engines are accepted, and how they are set.
//!
//! Owns: connection options, version checks, file modes. Refuses: a SQLite or a server that is too
//! old, and an unencrypted or unverified connection that leaves the machine unless the URL itself
//! says `sslmode=disable` (or `require`).

use super::engine::{Engine, Link, Readers};
use super::fault::{engine as fault, opening};
use super::migrate::migrate;
use super::reserve::Reserve;
use super::{SqlStore, writer::Writer};
use crate::StoreError;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use std::fs;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// Connections that read.
const READERS_MAX: u32 = 4;
/// How long SQLite waits for a lock that another process holds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a read waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// 3.51.3 mends a race that could corrupt a database in WAL mode (sqlite.org/wal.html#walresetbug).
const SQLITE_MIN: (u32, u32, u32) = (3, 51, 3);
/// `server_version_num` of the oldest PostgreSQL that is accepted.
const POSTGRES_MIN: i64 = 150_000;

pub(super) async fn sqlite(path: &Path) -> Result<SqlStore, StoreError> {
    make_private(path).map_err(fault)?;
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
        .pragma("mmap_size", "0")
        .pragma("trusted_schema", "OFF")
        .pragma("cell_size_check", "ON")
        .disable_statement_logging();
    let reading = options.clone().pragma("query_only", "ON");
    let engine = Engine::Sqlite(Box::new(options));
    let reserve = Reserve::beside(path);
    let mut link = sqlite_link(&engine).await;
    if matches!(link, Err(StoreError::DiskFull)) {
        tracing::warn!("the disk is full: the store gives up its reserve to open");
        reserve.give_up();
        link = sqlite_link(&engine).await;
    }
    let link = link?;
    let pool = SqlitePoolOptions::new()
        .max_connections(READERS_MAX)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .connect_lazy_with(reading);
    reserve.fill();
    Ok(started(engine, link, Readers::Sqlite(pool), Some(reserve)))
}

/// The writing connection, with the newest schema behind it.
async fn sqlite_link(engine: &Engine) -> Result<Link, StoreError> {
    let mut link = engine.connect().await.map_err(opening)?;
    let version: Vec<(String,)> = link.rows("SELECT sqlite_version()").await.map_err(opening)?;
    if let Some(text) = version.first().and_then(|(v,)| sqlite_refusal(v)) {
        return Err(StoreError::Version(text));
    }
    migrate(engine, &mut link).await?;
    Ok(link)
}

pub(super) async fn postgres(url: &str) -> Result<SqlStore, StoreError> {
    let options: PgConnectOptions = url.parse().map_err(fault)?;
    let options = with_tls(options).application_name("perigee").disable_statement_logging();
    let engine = Engine::Postgres(Box::new(options.clone()));
    let mut link = engine.connect().await.map_err(opening)?;
    let version: Vec<(String, String)> = link
        .rows("SELECT current_setting('server_version_num'), current_setting('server_version')")
        .await
        .map_err(opening)?;
    if let Some(text) = version.first().and_then(|(number, name)| postgres_refusal(number, name)) {
        return Err(StoreError::Version(text));
    }
    migrate(&engine, &mut link).await?;
    let pool =
        PgPoolOptions::new().max_connections(READERS_MAX).acquire_timeout(ACQUIRE_TIMEOUT).connect_lazy_with(options);
    Ok(started(engine, link, Readers::Postgres(pool), None))
}

fn started(engine: Engine, link: Link, readers: Readers, reserve: Option<Reserve>) -> SqlStore {
    let (orders, is_dead) = Writer::start(engine, link, reserve);
    SqlStore { readers, orders, is_dead }
}

/// Makes the file if there is none, for its owner only; SQLite gives its log the same mode.
fn make_private(path: &Path) -> std::io::Result<()> {
    let mut open = fs::OpenOptions::new();
    let file = open.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    let metadata = file.metadata()?;
    if metadata.permissions().mode() & 0o077 != 0 {
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    if metadata.len() == 0 {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(folder)?.sync_all()?;
    }
    Ok(())
}

/// TLS that is not verified protects from nobody: what leaves the machine is verified unless the
/// URL says otherwise, what stays on it needs none.
fn with_tls(options: PgConnectOptions) -> PgConnectOptions {
    let host = options.get_host();
    let stays = options.get_socket().is_some()
        || host.starts_with('/')
        || matches!(host, "localhost" | "127.0.0.1" | "::1" | "[::1]");
    match options.get_ssl_mode() {
        PgSslMode::Prefer | PgSslMode::Allow if stays => options.ssl_mode(PgSslMode::Disable),
        PgSslMode::Prefer | PgSslMode::Allow => options.ssl_mode(PgSslMode::VerifyFull),
        PgSslMode::Disable | PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull => options,
    }
}

fn sqlite_refusal(version: &str) -> Option<String> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    let (major, minor, patch) = SQLITE_MIN;
    ((next(), next(), next()) < SQLITE_MIN)
        .then(|| format!("SQLite {version} is too old: Perigee needs {major}.{minor}.{patch} or newer"))
}

fn postgres_refusal(number: &str, name: &str) -> Option<String> {
    let number: i64 = number.parse().unwrap_or(0);
    (number < POSTGRES_MIN).then(|| format!("PostgreSQL {name} is too old: Perigee needs 15 or newer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_engines_are_refused_by_name() {
        assert_eq!(sqlite_refusal("3.51.3"), None);
        assert_eq!(sqlite_refusal("3.52.0"), None);
        assert_eq!(sqlite_refusal("4.0"), None);
        let text = sqlite_refusal("3.51.2").unwrap();
        assert_eq!(text, "SQLite 3.51.2 is too old: Perigee needs 3.51.3 or newer");
        assert_eq!(postgres_refusal("150012", "15.12"), None);
        let text = postgres_refusal("140011", "14.11 (Debian)").unwrap();
        assert_eq!(text, "PostgreSQL 14.11 (Debian) is too old: Perigee needs 15 or newer");
    }

    #[test]
    fn what_leaves_the_machine_is_verified() {
        let mode = |url: &str| format!("{:?}", with_tls(url.parse().unwrap()).get_ssl_mode());
        assert_eq!(mode("postgres://u@127.0.0.1/p"), "Disable");
        assert_eq!(mode("postgres://u@localhost/p?host=/run/postgresql"), "Disable");
        assert_eq!(mode("postgres://u@127.0.0.1/p?sslmode=verify-full"), "VerifyFull");
        assert_eq!(mode("postgres://u@db.example/p"), "VerifyFull");
        assert_eq!(mode("postgres://u@db.example/p?sslmode=prefer"), "VerifyFull");
        assert_eq!(mode("postgres://u@db.example/p?sslmode=disable"), "Disable");
    }
}
