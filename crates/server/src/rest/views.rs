//! Law into published shape: the one conversion of each noun.

use super::Server;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perigee_api::host::{AbilitiesView, InventoryView};
use perigee_api::problem::ProblemView;
use perigee_api::{
    EventView, ExecutionView, ForeignVmView, HostView, ImageView, LoadView, PartView, SandboxView, TaskView, VmPart,
    VmView,
};
use perigee_control::watch::ForeignVm;
use perigee_model::execution::Excerpt;
use perigee_model::guest::Problem;
use perigee_model::{
    Event, Execution, ExecutionState, Guest, Host, Image, Inventory, Outcome, Phase, Task, TaskKind, Timestamp, VmSpec,
};
use serde::Serialize;

fn time(at: Timestamp) -> String {
    at.to_string()
}

/// An enum's published word: its serde name.
pub fn word(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}

fn problem(problem: &Problem) -> ProblemView {
    ProblemView { code: problem.code.clone(), detail: problem.text.clone() }
}

pub fn sandbox(server: &Server, guest: &Guest) -> SandboxView {
    let observed = guest.observed.as_ref();
    let host = guest.desired.host.and_then(|h| server.control.view().host(h));
    SandboxView {
        id: guest.id.to_string(),
        name: guest.name.to_string(),
        kind: word(&guest.kind),
        tenant: guest.tenant.to_string(),
        owner: guest.owner.clone(),
        status: word(&server.control.guest_status(guest)),
        note: observed.and_then(|o| o.note.clone()),
        problem: observed.and_then(|o| o.problem.as_ref()).map(problem),
        image: guest.spec.image_name.to_string(),
        image_id: guest.spec.image.to_string(),
        cpus: guest.spec.resources.cpus,
        memory_bytes: guest.spec.resources.memory_bytes,
        host: host.map(|h| h.name.to_string()),
        host_id: guest.desired.host.map(|h| h.to_string()),
        labels: guest.labels.clone(),
        created_at: time(guest.created_at),
        expires_at: guest.desired.expires_at.map(time),
        kernel_release: observed.and_then(|o| o.kernel_release.clone()),
        boot_ms: observed.and_then(|o| o.boot_ms),
        generation: guest.desired.generation,
    }
}

/// A guest of any kind.
pub fn vm(server: &Server, guest: &Guest) -> VmView {
    let observed = guest.observed.as_ref();
    let booted = observed.and_then(|o| o.booted).filter(|_| observed.is_some_and(|o| o.phase == Phase::Running));
    let part = |vm: &VmSpec| VmPart {
        description: vm.description.clone(),
        disk_bytes: vm.disk_bytes,
        network: vm.network.as_ref().map(ToString::to_string),
        mac: vm.mac.to_string(),
        addresses: observed.map(|o| o.addresses.iter().map(ToString::to_string).collect()).unwrap_or_default(),
        firmware: word(&vm.firmware),
        tpm: vm.tpm,
        restart: word(&vm.restart),
        start_order: vm.start_order,
        restart_needed: booted.is_some_and(|booted| booted != guest.spec.resources),
        adopted: vm.adopted,
    };
    VmView { guest: sandbox(server, guest), vm: guest.spec.vm.as_ref().map(part) }
}

/// The tag changes with the record, and with what is only computed from it.
pub fn sandbox_tag(server: &Server, guest: &Guest) -> String {
    format!("\"{}.{}\"", guest.revision, word(&server.control.guest_status(guest)))
}

pub fn task(task: &Task) -> TaskView {
    let (execution_id, image_id) = match &task.kind {
        TaskKind::GuestCreate { .. } | TaskKind::GuestDelete { .. } | TaskKind::GuestPower { .. } => (None, None),
        TaskKind::GuestExecute { execution, .. } => (Some(execution.to_string()), None),
        TaskKind::ImageBuild { image } => (None, Some(image.to_string())),
    };
    TaskView {
        id: task.id.to_string(),
        kind: task.kind.text().to_owned(),
        state: word(&task.state),
        priority: word(&task.priority),
        tenant: task.tenant.to_string(),
        owner: task.owner.clone(),
        sandbox_id: task.kind.guest().map(|g| g.to_string()),
        image_id,
        execution_id,
        attempts: task.attempts,
        attempts_max: task.attempts_max,
        worker: task.worker.clone(),
        note: task.note.clone(),
        progress_percent: task.progress_percent,
        problem: task.problem.as_ref().map(problem),
        created_at: time(task.created_at),
        scheduled_at: time(task.scheduled_at),
        started_at: task.started_at.map(time),
        completed_at: task.completed_at.map(time),
    }
}

pub fn execution(server: &Server, execution: &Execution) -> ExecutionView {
    let guest = server.control.view().guest(execution.guest);
    let (stdout, stdout_base64) = stream(&execution.stdout);
    let (stderr, stderr_base64) = stream(&execution.stderr);
    ExecutionView {
        id: execution.id.to_string(),
        sandbox_id: execution.guest.to_string(),
        sandbox: guest.map(|g| g.name.to_string()).unwrap_or_default(),
        task_id: execution.task.map(|t| t.to_string()),
        argv: execution.command.argv.clone(),
        state: state(execution),
        exit_code: execution.outcome.as_ref().and_then(Outcome::exit_code),
        stdout,
        stdout_base64,
        stdout_bytes: execution.stdout.bytes,
        stderr,
        stderr_base64,
        stderr_bytes: execution.stderr.bytes,
        truncated: execution.stdout.truncated || execution.stderr.truncated,
        created_at: time(execution.created_at),
        started_at: execution.started_at.map(time),
        ended_at: execution.ended_at.map(time),
        duration_ms: execution.duration_ms,
        problem: execution.problem.as_ref().map(problem),
    }
}

fn state(execution: &Execution) -> String {
    let text = match (&execution.outcome, execution.state) {
        (Some(Outcome::Exited { .. }), _) => "exited",
        (Some(Outcome::Signaled { .. }), _) => "signaled",
        (Some(Outcome::TimedOut), _) => "timed_out",
        (Some(Outcome::FailedToStart { .. }), _) => "failed_to_start",
        (Some(Outcome::Lost), _) => "lost",
        (None, ExecutionState::Pending) => "pending",
        (None, ExecutionState::Running | ExecutionState::Ended) => "running",
    };
    text.to_owned()
}

/// Text of an excerpt, and its bytes when they are not UTF-8.
fn stream(excerpt: &Excerpt) -> (String, Option<String>) {
    let mut bytes = excerpt.head.clone();
    let kept = u64::try_from(excerpt.head.len() + excerpt.tail.len()).unwrap_or(u64::MAX);
    if excerpt.bytes > kept {
        let gap = format!("\n[… {} bytes not shown …]\n", excerpt.bytes - kept);
        bytes.extend_from_slice(gap.as_bytes());
    }
    bytes.extend_from_slice(&excerpt.tail);
    match String::from_utf8(bytes) {
        Ok(text) => (text, None),
        Err(error) => {
            let encoded = STANDARD.encode(error.as_bytes());
            (String::from_utf8_lossy(error.as_bytes()).into_owned(), Some(encoded))
        }
    }
}

pub fn image(image: &Image) -> ImageView {
    let parts = image.parts.iter();
    let part = |p: &perigee_model::Part| PartView { role: word(&p.role), digest: p.digest.to_string(), bytes: p.bytes };
    ImageView {
        id: image.id.to_string(),
        name: image.name.to_string(),
        tenant: image.tenant.to_string(),
        arch: image.arch.clone(),
        state: word(&image.state),
        bytes: image.bytes(),
        parts: parts.map(part).collect(),
        kernel_release: image.kernel_release.clone(),
        created_at: time(image.created_at),
    }
}

pub fn host(server: &Server, host: &Host) -> HostView {
    let link = server.control.links().state(host.id);
    let (guests, memory_taken_bytes) = {
        let rows = server.control.view().read();
        let here = rows.living_guests().filter(|g| g.holds_room_on(host.id));
        here.fold((0, 0), |(n, bytes), g| (n + 1, bytes + g.spec.resources.memory_bytes))
    };
    let status = match (host.revoked, link.connected) {
        (true, _) => "revoked",
        (false, true) => "connected",
        (false, false) if server.watch.is_reporting(host.id) => "reporting",
        (false, false) => "disconnected",
    };
    HostView {
        id: host.id.to_string(),
        name: host.name.to_string(),
        status: status.to_owned(),
        status_since: link.since.map(time),
        heard_at: link.heard.map(time),
        labels: host.labels.clone(),
        tags: host.reporting.tags.clone(),
        guests,
        memory_taken_bytes,
        created_at: time(host.created_at),
        load: load(server, host),
        inventory: host.inventory.as_ref().map(inventory),
    }
}

/// A virtual machine that is not ours.
pub fn foreign_vm(server: &Server, vm: &ForeignVm) -> ForeignVmView {
    let status = match vm.state {
        Some(1 | 2) => "running",
        Some(3 | 7) => "paused",
        Some(4) => "stopping",
        Some(5) => "stopped",
        Some(6) => "failed",
        _ => "unknown",
    };
    ForeignVmView {
        id: vm.id.to_string(),
        name: vm.name.clone(),
        status: status.to_owned(),
        busy: vm.busy,
        host: server.control.view().host(vm.host).map(|host| host.name.to_string()).unwrap_or_default(),
        host_id: vm.host.to_string(),
        driver: vm.driver.clone(),
        cpus: vm.cpus,
        memory_bytes: vm.memory_bytes,
        resident_bytes: vm.resident_bytes,
        cpu_cores: vm.cpu_cores,
        measured_at: time(vm.measured_at),
    }
}

fn load(server: &Server, host: &Host) -> Option<LoadView> {
    let names = [
        "perigee_host_cpu_usage_ratio",
        "perigee_host_memory_used_bytes",
        "perigee_host_memory_total_bytes",
        "node_load1",
    ];
    let (at, [cpu_usage_ratio, memory_used_bytes, memory_total_bytes, load1]) = server.watch.latest(host.id, names)?;
    Some(LoadView {
        measured_at: time(at),
        cpu_usage_ratio,
        memory_used_bytes,
        memory_total_bytes,
        load1,
        frames_lost: server.watch.lost(host.id),
    })
}

fn inventory(inventory: &Inventory) -> InventoryView {
    let driver = |d: &perigee_model::Abilities| AbilitiesView {
        driver: d.driver.clone(),
        version: d.version.clone(),
        acceleration: word(&d.acceleration),
        channel: d.channel,
        pause: d.pause,
        snapshots: d.snapshots,
        boots_in_flight_max: d.boots_in_flight_max,
    };
    InventoryView {
        hostname: inventory.hostname.clone(),
        arch: inventory.arch.clone(),
        kernel_release: inventory.kernel_release.clone(),
        os: inventory.os.clone(),
        cpus: inventory.cpus,
        cpu_model: inventory.cpu_model.clone(),
        memory_bytes: inventory.memory_bytes,
        disk_bytes: inventory.disk_bytes,
        disk_free_bytes: inventory.disk_free_bytes,
        agent_version: inventory.agent_version.clone(),
        privileges: inventory.privileges.clone(),
        drivers: inventory.drivers.iter().map(driver).collect(),
    }
}

pub fn event(seq: i64, event: &Event) -> EventView {
    EventView {
        seq,
        id: event.id.to_string(),
        at: time(event.at),
        actor: event.actor.clone(),
        verb: event.verb.clone(),
        noun: event.subject.noun.clone(),
        subject_id: event.subject.id.clone(),
        request_id: event.request_id.clone(),
        detail: event.detail.clone(),
    }
}
