//! `perigee doctor`: what this machine can do, what is missing, and how to mend it.
//!
//! A warning takes an ability away, a failure takes everything. Checks only look; none changes
//! anything, and none needs a control plane.

mod compute;
mod ground;
mod network;
mod probe;

use crate::args::Format;
use crate::cell::Cell;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Grade;
use crate::session::Session;
use crate::table::{Column, Shown, column};
use perigee_client::ClientError;
use serde::Serialize;
use std::time::Duration;
use tokio::time::timeout;

/// A control plane on this machine answers within this time.
const PATIENCE: Duration = Duration::from_secs(3);

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    grade: Grade,
    name: String,
    finding: String,
    fix: Option<String>,
}

impl Check {
    fn new(grade: Grade, name: &str, finding: impl Into<String>) -> Self {
        Self { grade, name: name.to_owned(), finding: finding.into(), fix: None }
    }
    fn ok(name: &str, finding: impl Into<String>) -> Self {
        Self::new(Grade::Ok, name, finding)
    }
    fn warn(name: &str, finding: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..Self::new(Grade::Warn, name, finding) }
    }
    fn fail(name: &str, finding: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { fix: Some(fix.into()), ..Self::new(Grade::Fail, name, finding) }
    }
}

impl Shown for Check {
    const COLUMNS: &'static [Column] = &[column("GRADE"), column("NAME"), column("FINDING"), column("FIX")];
    fn cells(&self) -> Vec<Cell> {
        vec![
            Cell::Text(self.grade.text().to_owned()),
            Cell::Text(self.name.clone()),
            Cell::Text(self.finding.clone()),
            Cell::text(self.fix.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}

/// Looks everywhere.
pub async fn run(session: &Session) -> Result<Exit, Failure> {
    let settings = &session.settings;
    let mut checks = vec![
        compute::kvm(),
        compute::qemu(&settings.search_path).await,
        compute::libvirt(settings.libvirt_socket.as_deref()),
        network::nft(&settings.search_path).await,
        compute::cgroup(),
        network::ports(settings).await,
        ground::clock(session.clock.now()),
        ground::disk(&settings.data_dir),
        ground::memory(),
        ground::image_tools(&settings.search_path),
        ground::privileges(),
    ];
    checks.extend(control_plane(session).await);
    print(session, &checks)?;
    let failed = checks.iter().any(|c| c.grade == Grade::Fail);
    Ok(if failed { Exit::FAILURE } else { Exit::OK })
}

fn print(session: &Session, checks: &[Check]) -> Result<(), Failure> {
    if !matches!(session.out.format, Format::Table | Format::Wide) {
        let mut listing = session.out.listing();
        listing.page(checks.to_vec())?;
        return listing.end("");
    }
    let width = checks.iter().map(|c| c.name.chars().count()).max().unwrap_or_default();
    for check in checks {
        session.out.graded(check.grade, &check.name, width, &check.finding)?;
        if let Some(fix) = &check.fix {
            session.out.text(&format!("      fix: {fix}\n"))?;
        }
    }
    Ok(())
}

/// Part by part, if there is one.
async fn control_plane(session: &Session) -> Vec<Check> {
    let client = match session.client() {
        Ok(client) => client,
        Err(failure) if failure.exit == Exit::UNREACHABLE => {
            return vec![Check::ok("server", "no control plane is known here yet; perigee up starts one")];
        }
        Err(failure) => return vec![Check::fail("server", failure.what, failure.tries.join("; "))],
    };
    let ready = timeout(PATIENCE, client.ready()).await;
    match ready.unwrap_or(Err(ClientError::TimedOut { address: client.address().to_string(), within: PATIENCE })) {
        Ok(view) => {
            let mut checks =
                vec![Check::ok("server", format!("{} answers, version {}", client.address(), view.version))];
            checks.extend(view.parts.into_iter().map(|part| {
                if part.ready {
                    Check::ok(&part.name, part.text)
                } else {
                    Check::fail(&part.name, part.text, "perigee up")
                }
            }));
            checks
        }
        Err(error) => {
            let failure = Failure::from(error);
            let finding = format!("{}: {}", failure.what, failure.causes.join("; "));
            vec![Check::warn("server", finding, failure.tries.join("; "))]
        }
    }
}
