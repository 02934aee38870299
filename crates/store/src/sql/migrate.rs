//! Migrations: numbered files, applied once, in one transaction.
//!
//! Owns: the schema's version. Refuses: a database that a newer Perigee has written.

use super::engine::{Engine, Link, Value};
use super::fault::opening;
use crate::StoreError;

/// A schema's number and its text.
type Migration = (i64, &'static str);

const SQLITE: &[Migration] = &[
    (1, include_str!("../../migrations/sqlite/0001_first.sql")),
    (2, include_str!("../../migrations/sqlite/0002_backups.sql")),
    (3, include_str!("../../migrations/sqlite/0003_volumes.sql")),
    (4, include_str!("../../migrations/sqlite/0004_networks.sql")),
];
const POSTGRES: &[Migration] = &[
    (1, include_str!("../../migrations/postgres/0001_first.sql")),
    (2, include_str!("../../migrations/postgres/0002_backups.sql")),
    (3, include_str!("../../migrations/postgres/0003_volumes.sql")),
    (4, include_str!("../../migrations/postgres/0004_networks.sql")),
];

/// Brings the database to the newest schema this program knows.
pub(super) async fn migrate(engine: &Engine, link: &mut Link) -> Result<(), StoreError> {
    let known = match engine {
        Engine::Sqlite(_) => SQLITE,
        Engine::Postgres(_) => POSTGRES,
    };
    link.script(engine.begin()).await.map_err(opening)?;
    let applied = apply(engine, link, known).await;
    let end = if applied.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = link.script(end).await.map_err(opening);
    applied.and(ended)
}

async fn apply(engine: &Engine, link: &mut Link, known: &[Migration]) -> Result<(), StoreError> {
    let at = version(engine, link).await?;
    let newest = known.last().map_or(0, |(number, _)| *number);
    if at > newest {
        return Err(StoreError::Version(format!(
            "the database has schema {at}, this Perigee knows {newest}: it was written by a newer Perigee, start that one"
        )));
    }
    for (number, text) in known.iter().filter(|(number, _)| *number > at) {
        link.script(text).await.map_err(opening)?;
        let insert = "INSERT INTO schema_version (version) VALUES ($1)".into();
        link.execute(&insert, &[Value::Int(Some(*number))]).await.map_err(opening)?;
    }
    Ok(())
}

async fn version(engine: &Engine, link: &mut Link) -> Result<i64, StoreError> {
    let tables: Vec<(i64,)> = link.rows(engine.schema_version_tables()).await.map_err(opening)?;
    if tables.iter().all(|(count,)| *count == 0) {
        return Ok(0);
    }
    let newest = "SELECT coalesce(max(version), 0) FROM schema_version";
    let versions: Vec<(i64,)> = link.rows(newest).await.map_err(opening)?;
    Ok(versions.first().map_or(0, |(version,)| *version))
}
