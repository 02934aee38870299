//! Law into published shape: the one conversion of each noun.

use super::Server;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use perigee_api::host::{AbilitiesView, InventoryView};
use perigee_api::problem::ProblemView;
use perigee_api::{
    EventView, ExecutionView, ForeignVmView, HostReason, HostView, ImageView, LoadView, PartView, SandboxView,
    TaskView, VmView,
};
use perigee_control::watch::{ForeignVm, GuestUse};
use perigee_model::execution::Excerpt;
use perigee_model::guest::Problem;
use perigee_model::placement::Reason;
use perigee_model::{
    Code, Event, Execution, ExecutionState, Guest, GuestId, Host, HostId, Image, Inventory, Name, Outcome, Task,
    Timestamp,
};
use std::collections::BTreeMap;

fn time(at: Timestamp) -> String {
    at.to_string()
}

pub use perigee_api::word;

fn problem(problem: &Problem) -> ProblemView {
    problem.into()
}

pub fn sandbox(server: &Server, guest: &Guest) -> SandboxView {
    let host = guest.desired.host.and_then(|h| server.control.view().host(h));
    SandboxView::of(guest, server.control.guest_status(guest), host.map(|h| h.name.to_string()))
}

/// What placement thinks of a host.
pub fn host_reason((host, reason): &(Name, Reason)) -> HostReason {
    HostReason { host: host.to_string(), reason: reason.text() }
}

/// Guests of any kind, with what they use. What a host measured is read once for all of its guests.
pub struct Vms<'a> {
    server: &'a Server,
    used: BTreeMap<HostId, BTreeMap<GuestId, GuestUse>>,
}

impl<'a> Vms<'a> {
    pub fn of(server: &'a Server) -> Self {
        Self { server, used: BTreeMap::new() }
    }

    pub fn view(&mut self, guest: &Guest) -> VmView {
        let used = guest.desired.host.and_then(|host| {
            let all = self.used.entry(host).or_insert_with(|| self.server.watch.guests_use(host));
            all.get(&guest.id).copied()
        });
        let GuestUse { resident_bytes, cpu_cores } = used.unwrap_or_default();
        let view = VmView::of(guest, sandbox(self.server, guest));
        VmView { resident_bytes, cpu_cores, ..view }
    }
}

/// The tag changes with the record, and with what is only computed from it.
pub fn sandbox_tag(server: &Server, guest: &Guest) -> String {
    format!("\"{}.{}\"", guest.revision, word(&server.control.guest_status(guest)))
}

pub fn task(task: &Task) -> TaskView {
    TaskView {
        id: task.id.to_string(),
        kind: task.kind.text().to_owned(),
        state: word(&task.state),
        priority: word(&task.priority),
        tenant: task.tenant.to_string(),
        owner: task.owner.clone(),
        sandbox_id: task.kind.guest().map(|g| g.to_string()),
        image_id: task.kind.image().map(|image| image.to_string()),
        volume_id: task.kind.volume().map(|volume| volume.to_string()),
        network_id: task.kind.network().map(|network| network.to_string()),
        execution_id: task.kind.execution().map(|execution| execution.to_string()),
        backup_id: task.kind.backup().map(|backup| backup.to_string()),
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
    let twins = link.twins.map(|twins| {
        let text = format!("run {} is served, run {} is refused: stop one of the two", twins.newer, twins.older);
        ProblemView::from(&Problem::new(Code::TwinAgent, format!("two agents have its identity; {text}")))
    });
    HostView {
        id: host.id.to_string(),
        name: host.name.to_string(),
        status: status.to_owned(),
        status_since: link.since.map(time),
        heard_at: link.heard.map(time),
        problem: twins,
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
        volumes: d.volumes,
        networks: d.networks,
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
