//! A domain that stands because a disk of its is full: whether it does, and a libvirt that is wrong about it.
//!
//! QEMU tells of failed writes at most once a second for each disk (seen of 10.0). That word can be late: the
//! domain was let go on meanwhile, and libvirt (11.3) takes it for paused all the same, for good: letting it go on
//! changes nothing for QEMU, and pausing it counts as done. Two reasons are given for one that stands: the disk's,
//! and none, where the word is still to come.
//!
//! Owns: asking QEMU which is so, and telling libvirt. Refuses: letting go on one that stands, and touching one
//! of somebody else's.

use perigee_libvirt::{Connection, DiskFault, Domain, Error, State, codes};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::Mutex;

/// libvirt's number for a domain that is paused because a disk of its failed: of ours, one that is full.
const PAUSED_BY_DISK: i32 = 5;
/// And for one that is paused for it does not know what.
const PAUSED_UNKNOWN: i32 = 0;
/// libvirt takes events in after it has answered.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const LOOKS_MAX: u32 = 100;

/// Whose turn it is to ask and to set right: in between, a domain that runs is stopped.
#[derive(Default)]
pub struct Turn(Mutex<()>);

/// A domain's state in libvirt's words, set right where it is wrong.
pub struct Heard {
    /// What it does.
    pub state: State,
    /// libvirt's number for why.
    pub reason: i32,
    /// It stands until there is room.
    pub is_full: bool,
}

impl Turn {
    /// Asks libvirt, and QEMU where libvirt may be wrong; libvirt is told if it is, of a domain of ours.
    pub async fn hear(&self, libvirt: &Connection, domain: &Domain, is_ours: bool) -> Result<Heard, Error> {
        let (state, reason) = libvirt.domain_state(domain).await?;
        if !may_stand((state, reason)) {
            return Ok(Heard { state, reason, is_full: false });
        }
        let _turn = self.0.lock().await;
        let (state, reason) = libvirt.domain_state(domain).await?;
        if !may_stand((state, reason)) {
            return Ok(Heard { state, reason, is_full: false });
        }
        let asked = async {
            if runs(&qemu(libvirt, domain, "query-status").await?) {
                if is_ours {
                    set_right(libvirt, domain).await?;
                }
                return Ok::<_, Error>(Heard { state: State::Running, reason: 0, is_full: false });
            }
            let faults: Vec<DiskFault> =
                libvirt.disk_faults(domain).await?.into_iter().map(|(_, fault)| fault).collect();
            Ok(Heard { state, reason, is_full: is_full(reason, &faults) })
        };
        match asked.await {
            // It does not run any more.
            Err(error) if error.code() == Some(codes::NOT_NOW) => Ok(Heard { state, reason, is_full: false }),
            heard => heard,
        }
    }
}

fn may_stand((state, reason): (State, i32)) -> bool {
    state == State::Paused && [PAUSED_BY_DISK, PAUSED_UNKNOWN].contains(&reason)
}

/// What was let go on and stopped again, by us who did not get to the end of setting it right, has forgotten its
/// fault; libvirt has not.
fn is_full(reason: i32, faults: &[DiskFault]) -> bool {
    faults.contains(&DiskFault::NoSpace) || faults.is_empty() && reason == PAUSED_BY_DISK
}

/// Stops it and lets it go on at once: libvirt believes its QEMU's word of both. Should the second get lost, it
/// stands as any other whose disk was full.
async fn set_right(libvirt: &Connection, domain: &Domain) -> Result<(), Error> {
    for command in ["stop", "cont"] {
        qemu(libvirt, domain, command).await?;
    }
    for _ in 0..LOOKS_MAX {
        if libvirt.domain_state(domain).await?.0 != State::Paused {
            tracing::info!(domain = domain.name, "libvirt held it for paused, and it runs: it was told");
            return Ok(());
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    tracing::warn!(domain = domain.name, "libvirt holds it for paused, and it runs");
    Ok(())
}

async fn qemu(libvirt: &Connection, domain: &Domain, command: &str) -> Result<String, Error> {
    libvirt.monitor(domain, &json!({"execute": command}).to_string()).await
}

/// QEMU's answer to `query-status`; what cannot be read is taken as libvirt has it.
fn runs(answer: &str) -> bool {
    let answer: Value = serde_json::from_str(answer).unwrap_or_default();
    answer.pointer("/return/running").and_then(Value::as_bool).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_for_another_reason_is_not_full() {
        use DiskFault::{NoSpace, Other};
        assert!(is_full(PAUSED_BY_DISK, &[NoSpace]) && is_full(PAUSED_UNKNOWN, &[Other, NoSpace]));
        assert!(is_full(PAUSED_BY_DISK, &[]), "it was being set right");
        assert!(!is_full(PAUSED_UNKNOWN, &[]) && !is_full(PAUSED_BY_DISK, &[Other]));
    }

    #[test]
    fn only_who_says_so_runs() {
        assert!(runs(r#"{"return": {"status": "running", "running": true}, "id": "libvirt-1"}"#));
        assert!(!runs(r#"{"return": {"status": "io-error", "running": false}, "id": "libvirt-1"}"#));
        assert!(!runs(r#"{"error": {"class": "GenericError", "desc": "no"}, "id": "libvirt-1"}"#));
        assert!(!runs("{"));
    }
}
