//! Which crate may know which. Edges are decisions: a new one is a row here and a record in
//! docs/decisions.

use super::{Finding, finding};
use crate::shell::cargo;
use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

/// Crate → what it may depend on, besides what its tests use.
#[rustfmt::skip]
const TABLE: &[(&str, &[&str])] = &[
    ("model",      &[]),
    ("clock",      &["model"]),
    ("api",        &["model"]),
    ("agent-api",  &["model"]),
    ("store",      &["model"]),
    ("guest",      &[]),
    ("libvirt",    &[]),
    ("blobs",      &["model"]),
    ("backups",    &["model"]),
    ("outbound",   &[]),
    ("network",    &["model"]),
    ("confine",    &[]),
    ("images",     &["model", "blobs", "confine", "outbound"]),
    ("hypervisor", &["model", "clock", "confine", "guest", "libvirt"]),
    ("probe",      &["model"]),
    ("series",     &["model"]),
    ("control",    &["model", "clock", "store", "series", "agent-api"]),
    ("agent",      &["model", "clock", "blobs", "guest", "hypervisor", "images", "network", "probe", "api", "agent-api"]),
    ("server",     &["model", "clock", "blobs", "backups", "outbound", "images", "api", "agent-api", "store", "series", "control"]),
    ("client",     &["model", "clock", "api"]),
    ("cli",        &["model", "clock", "api", "client"]),
    ("sim",        &["model", "clock", "store", "control", "agent", "agent-api", "hypervisor", "api", "client"]),
    ("bench",      &["model", "api", "client", "clock", "guest", "hypervisor", "libvirt", "network"]),
    ("xtask",      &[]),
];

const ASK: &str = "edges are decisions: add a row in xtask/src/tidy/edges.rs and a record in docs/decisions";

/// A crate of the workspace and the workspace's crates it needs when it is no test.
#[derive(PartialEq, Eq, Debug)]
pub struct Room {
    name: String,
    needs: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}
#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}
#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
    path: Option<String>,
}

/// What cargo says.
pub fn of_the_workspace() -> Result<Vec<Room>> {
    let (said, success) = cargo(["metadata", "--format-version", "1", "--no-deps", "--offline"]).output()?;
    if !success {
        bail!("cargo metadata failed");
    }
    rooms(&said)
}

fn rooms(metadata: &str) -> Result<Vec<Room>> {
    let metadata: Metadata = serde_json::from_str(metadata).context("cargo metadata")?;
    Ok(metadata.packages.into_iter().map(room).collect())
}

fn room(package: Package) -> Room {
    let counts = |dependency: &Dependency| dependency.path.is_some() && dependency.kind.as_deref() != Some("dev");
    let needs = package.dependencies.iter().filter(|d| counts(d)).map(|d| short(&d.name)).collect();
    Room { name: short(&package.name), needs }
}

fn short(name: &str) -> String {
    name.strip_prefix("perigee-").unwrap_or(name).to_owned()
}

/// Rooms against the table, both ways.
pub fn check(rooms: &[Room]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for room in rooms {
        match TABLE.iter().find(|(name, _)| *name == room.name) {
            None => findings.push(finding(&room.name, format!("has no row; {ASK}"))),
            Some((_, may)) => {
                let unknown = room.needs.iter().filter(|need| !may.contains(&need.as_str()));
                findings.extend(unknown.map(|need| finding(&room.name, format!("may not depend on {need}; {ASK}"))));
            }
        }
    }
    let gone = TABLE.iter().filter(|(name, _)| rooms.iter().all(|room| room.name != *name));
    findings.extend(gone.map(|(name, _)| finding(name, "has a row but is no crate: remove the row")));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn house() -> Vec<Room> {
        let row = |(name, needs): &(&str, &[&str])| Room {
            name: (*name).to_owned(),
            needs: needs.iter().map(|need| (*need).to_owned()).collect(),
        };
        TABLE.iter().map(row).collect()
    }

    #[test]
    fn the_table_agrees_with_itself() {
        assert_eq!(check(&house()), []);
        for (index, (_, needs)) in TABLE.iter().enumerate() {
            for need in *needs {
                assert!(TABLE.iter().any(|(name, _)| name == need), "row {index} names {need}");
                assert!(!["server", "cli", "sim", "bench"].contains(need), "nothing may depend on {need}");
            }
        }
    }

    #[test]
    fn an_edge_that_is_not_in_the_table_is_found() {
        let mut rooms = house();
        rooms[0].needs.push("control".to_owned());
        let found = check(&rooms);
        assert_eq!(found.len(), 1);
        assert!(found[0].to_string().starts_with("model: may not depend on control; edges are decisions"));
    }

    #[test]
    fn a_crate_without_a_row_and_a_row_without_a_crate_are_found() {
        let mut rooms = house();
        rooms[0].name = "attic".to_owned();
        let places: Vec<_> = check(&rooms).into_iter().map(|finding| finding.place).collect();
        assert_eq!(places, ["attic", "model"]);
    }

    #[test]
    fn cargos_words_are_read() {
        let said = r#"{"packages": [{"name": "perigee-api", "version": "1", "dependencies": [
            {"name": "perigee-model", "kind": null, "path": "/x"},
            {"name": "perigee-clock", "kind": "build", "path": "/x"},
            {"name": "perigee-sim", "kind": "dev", "path": "/x"},
            {"name": "serde", "kind": null}]}]}"#;
        let expected = Room { name: "api".into(), needs: vec!["model".into(), "clock".into()] };
        assert_eq!(rooms(said).unwrap(), [expected]);
    }
}
