//! What each VMM uses: its control group's word, or its process's where it has none, and QMP's.
//!
//! A VMM that does not answer on QMP in time is told of all the same, as busy. Files: proc(5), the
//! kernel's cgroup documents; `query-status` and `query-blockstats` of QEMU's QMP reference.

use super::host::Host;
use super::qmp::{Qmp, QmpError};
use super::vmm::Vmm;
use crate::usage::{DiskUsage, GuestUsage, RunState};
use futures::StreamExt as _;
use serde::Deserialize;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// For a VMM's answers; one that moves much memory or disk may take longer, and is busy.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// VMMs asked at once.
const ASKED_AT_ONCE: usize = 16;
/// `USER_HZ`, which is 100 wherever Linux runs (time(7)).
const TICK_NS: u64 = 10_000_000;

/// Every living VMM's.
pub async fn usages(host: &Arc<Host>) -> Vec<GuestUsage> {
    let alive: Vec<Arc<Vmm>> = host.alive().values().filter(|vmm| !vmm.has_ended()).cloned().collect();
    let asked = futures::stream::iter(alive).map(|vmm| usage(host.clone(), vmm));
    asked.buffer_unordered(ASKED_AT_ONCE).filter_map(std::future::ready).collect().await
}

/// `None` when it ended meanwhile.
async fn usage(host: Arc<Host>, vmm: Arc<Vmm>) -> Option<GuestUsage> {
    let (guest, pid) = (vmm.guest, vmm.pid);
    let told = ask(&host, guest).await;
    // The kernel answers these from memory.
    let (cpu_ns, memory) = host.cgroups.used(guest);
    let (process_ns, resident) = of_process(pid);
    let about = host.places.about(guest);
    if vmm.has_ended() {
        return None;
    }
    let (state, disks) = told.clone().unwrap_or((RunState::Unknown, Vec::new()));
    Some(GuestUsage {
        id: guest.uuid(),
        name: about.as_ref().map(|about| about.name.clone()),
        ours: true,
        life: u64::from(pid),
        state,
        starved: false,
        busy: told.is_none(),
        cpus: about.as_ref().map(|about| about.cpus),
        cpu_ns: cpu_ns.or(process_ns),
        memory_bytes: about.as_ref().map(|about| about.memory_bytes),
        resident_bytes: memory.or(resident),
        usable_bytes: None,
        disks,
        disks_at: None,
        nics: Vec::new(),
    })
}

/// What the VMM says of itself; `None` when it does not answer in time.
async fn ask(host: &Host, guest: perigee_model::GuestId) -> Option<(RunState, Vec<DiskUsage>)> {
    let deadline = host.clock.instant().after(ANSWER_WITHIN).into_tokio();
    let socket = host.places.qmp(guest);
    let asking = async {
        let mut qmp = Qmp::connect(&socket, deadline).await?;
        let status = qmp.execute("query-status", None).await?;
        let disks = qmp.execute("query-blockstats", None).await?;
        Ok::<_, QmpError>((state(&status), serde_json::from_value(disks).unwrap_or_default()))
    };
    let (state, disks): (_, Vec<BlockStats>) = asking.await.ok()?;
    Some((state, disks.into_iter().enumerate().map(disk).collect()))
}

fn state(status: &serde_json::Value) -> RunState {
    match status.get("status").and_then(serde_json::Value::as_str).unwrap_or_default() {
        "running" => RunState::Running,
        "paused" | "prelaunch" | "inmigrate" | "postmigrate" | "finish-migrate" | "save-vm" | "restore-vm" => {
            RunState::Paused
        }
        "suspended" => RunState::Suspended,
        "shutdown" => RunState::ShuttingDown,
        "internal-error" | "io-error" | "guest-panicked" => RunState::Crashed,
        _ => RunState::Unknown,
    }
}

#[derive(Deserialize)]
struct BlockStats {
    #[serde(default)]
    device: String,
    stats: Counts,
}

#[derive(Deserialize)]
struct Counts {
    rd_bytes: u64,
    wr_bytes: u64,
    rd_operations: u64,
    wr_operations: u64,
}

/// Drives without a name go by their place: `disk0`.
fn disk((place, block): (usize, BlockStats)) -> DiskUsage {
    DiskUsage {
        name: if block.device.is_empty() { format!("disk{place}") } else { block.device },
        read_bytes: Some(block.stats.rd_bytes),
        written_bytes: Some(block.stats.wr_bytes),
        reads: Some(block.stats.rd_operations),
        writes: Some(block.stats.wr_operations),
    }
}

/// CPU time and resident memory of a process and its threads.
fn of_process(pid: u32) -> (Option<u64>, Option<u64>) {
    let text = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}")).ok();
    (text("stat").and_then(|stat| cpu_ns(&stat)), text("statm").and_then(|statm| resident(&statm)))
}

/// Fields 14 and 15 of stat. The second field, the name in brackets, may hold anything but its own end.
fn cpu_ns(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    user.checked_add(system)?.checked_mul(TICK_NS)
}

fn resident(statm: &str) -> Option<u64> {
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).ok()??;
    statm.split(' ').nth(1)?.parse::<u64>().ok()?.checked_mul(u64::try_from(page).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let stat = "12 (a) b) R 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 4 0 99 1 2";
        assert_eq!(cpu_ns(stat), Some(3_000_000_000));
        assert_eq!(cpu_ns("12 (a) R 1"), None);
        let (_, resident) = of_process(std::process::id());
        assert!(resident.is_some_and(|bytes| bytes > 100_000));
    }

    #[test]
    fn qmps_words_are_understood() {
        assert_eq!(state(&json!({ "status": "running", "running": true })), RunState::Running);
        assert_eq!(state(&json!({ "status": "paused" })), RunState::Paused);
        assert_eq!(state(&json!({ "status": "guest-panicked" })), RunState::Crashed);
        assert_eq!(state(&json!({})), RunState::Unknown);
        let stats = json!([{ "device": "", "node-name": "x",
            "stats": { "rd_bytes": 4096, "wr_bytes": 1, "rd_operations": 2, "wr_operations": 3, "more": 4 } }]);
        let blocks: Vec<BlockStats> = serde_json::from_value(stats).unwrap();
        let disks: Vec<DiskUsage> = blocks.into_iter().enumerate().map(disk).collect();
        assert_eq!((disks[0].name.as_str(), disks[0].read_bytes, disks[0].writes), ("disk0", Some(4096), Some(3)));
    }
}
