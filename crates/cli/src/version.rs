//! `perigee version`: ours and, if it answers at once, the control plane's.

use crate::cell::Cell;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::session::Session;
use crate::table::{Column, Shown, column};
use serde::Serialize;
use std::time::Duration;
use tokio::time::timeout;

/// A version is not worth a longer wait.
const PATIENCE: Duration = Duration::from_secs(1);

#[derive(Serialize)]
struct Versions {
    version: &'static str,
    arch: &'static str,
    server_version: Option<String>,
    instance: Option<String>,
}

impl Shown for Versions {
    const COLUMNS: &'static [Column] =
        &[column("VERSION"), column("ARCH"), column("SERVER_VERSION"), column("INSTANCE")];
    fn cells(&self) -> Vec<Cell> {
        vec![
            Cell::Text(self.version.to_owned()),
            Cell::Text(self.arch.to_owned()),
            Cell::text(self.server_version.as_ref()),
            Cell::text(self.instance.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.version.to_owned()
    }
}

/// Prints them.
pub async fn run(session: &Session) -> Result<Exit, Failure> {
    let server = match session.client() {
        Ok(client) => timeout(PATIENCE, client.ready()).await.ok().and_then(Result::ok),
        Err(_) => None,
    };
    let (server_version, instance) = server.map(|s| (s.version, s.instance)).unzip();
    let version = env!("CARGO_PKG_VERSION");
    session.out.object(&Versions { version, arch: std::env::consts::ARCH, server_version, instance })?;
    Ok(Exit::OK)
}
