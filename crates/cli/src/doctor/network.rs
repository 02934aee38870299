//! What guests and people come in by: nft and ports.

use super::Check;
use super::probe::{program, version};
use crate::instance::Program;
use crate::settings::{SYSTEM_DATA_DIR, Settings};
use std::ffi::OsStr;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

/// The system installation's ports: API, agents, and the agent's own three.
const PORTS: [u16; 5] = [8080, 8443, 9090, 9091, 9092];

/// The filter of guests' networks.
pub async fn nft(search_path: &OsStr) -> Check {
    let Some(file) = program("nft", search_path) else {
        return Check::warn("nft", "not installed; needed for networks of guests", "apt-get install nftables");
    };
    match version(&file).await {
        Some(said) => Check::ok("nft", said),
        None => Check::warn("nft", format!("{} does not say its version", file.display()), "apt-get install nftables"),
    }
}

/// Whether the system installation's ports are free, or held by it.
pub async fn ports(settings: &Settings) -> Check {
    let taken: Vec<u16> =
        PORTS.into_iter().filter(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_err()).collect();
    let mut ours = Vec::new();
    for root in [Path::new(SYSTEM_DATA_DIR), settings.data_dir.as_path()] {
        for program in [Program::ControlPlane, Program::Agent] {
            if let Some(endpoints) = program.alive(root).await {
                ours.extend(
                    [endpoints.http, endpoints.agents, endpoints.health].into_iter().flatten().filter_map(port_of),
                );
            }
        }
    }
    finding(&taken, &ours)
}

fn finding(taken: &[u16], ours: &[u16]) -> Check {
    let list = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    let foreign: Vec<u16> = taken.iter().copied().filter(|p| !ours.contains(p)).collect();
    if !foreign.is_empty() {
        let fix = "perigee up --data-dir DIR takes free ports; or see who it is: ss -ltnp";
        return Check::warn("ports", format!("taken by another program: {}", list(&foreign)), fix);
    }
    let held = if taken.is_empty() { String::new() } else { format!("; held by this instance: {}", list(taken)) };
    let free: Vec<u16> = PORTS.into_iter().filter(|p| !taken.contains(p)).collect();
    Check::ok("ports", format!("free: {}{held}", list(&free)))
}

fn port_of(url: String) -> Option<u16> {
    url.rsplit_once(':')?.1.trim_end_matches('/').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Grade;

    #[test]
    fn only_foreign_ports_are_a_warning() {
        assert_eq!(finding(&[], &[]).grade, Grade::Ok);
        assert_eq!(finding(&[8080], &[8080, 8443]).grade, Grade::Ok);
        let check = finding(&[8080, 9092], &[8080]);
        assert!(check.grade == Grade::Warn && check.finding.contains("9092") && !check.finding.contains("8080"));
        assert_eq!(port_of("http://127.0.0.1:8080".to_owned()), Some(8080));
    }
}
