//! Which columns each of the API's objects has.

use crate::cell::Cell;
use crate::table::{Column, Shown, column, wide};
use perigee_api::problem::ProblemView;
use perigee_api::{
    CatalogueEntryView, EventView, ExecutionView, ForwardView, HostView, ImageView, SandboxView, TaskView,
};

/// A text as it is.
pub fn words(text: &str) -> Cell {
    Cell::Text(text.to_owned())
}

/// A problem with its code.
pub fn problem(problem: Option<&ProblemView>) -> Cell {
    problem.map_or(Cell::Missing, |p| Cell::Text(format!("{} {}", p.code, p.detail)))
}

/// Ports of a host that lead to a guest.
fn forwards(forwards: &[ForwardView]) -> Cell {
    let word = |one: &ForwardView| format!("{}/{}:{}", one.protocol, one.host_port, one.guest_port);
    let text = forwards.iter().map(word).collect::<Vec<_>>().join(" ");
    Cell::text(Some(text).filter(|text| !text.is_empty()).as_ref())
}

/// A share of 0 to 1.
fn percent(share: Option<f64>) -> Cell {
    share.map_or(Cell::Missing, |share| Cell::Text(format!("{:.0}%", share * 100.0)))
}
/// A number, where there is one.
pub fn count(number: Option<i64>) -> Cell {
    number.map_or(Cell::Missing, Cell::Number)
}

impl Shown for SandboxView {
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("STATUS"),
        column("IMAGE"),
        column("HOST"),
        column("CPUS"),
        column("MEMORY"),
        column("CREATED"),
        column("EXPIRES"),
        wide("BOOT"),
        wide("KERNEL"),
        wide("ADDRESS"),
        wide("EGRESS"),
        wide("ADDRESS6"),
        wide("EGRESS6"),
        wide("FORWARDS"),
        wide("LABELS"),
        wide("OWNER"),
        wide("ID"),
        wide("NOTE"),
        wide("PROBLEM"),
    ];
    fn cells(&self) -> Vec<Cell> {
        vec![
            words(&self.name),
            words(&self.status),
            words(&self.image),
            Cell::text(self.host.as_ref()),
            Cell::Number(self.cpus.into()),
            Cell::Bytes(self.memory_bytes),
            moment(&self.created_at),
            Cell::time(self.expires_at.as_ref()),
            self.boot_ms.map_or(Cell::Missing, Cell::Millis),
            Cell::text(self.kernel_release.as_ref()),
            Cell::text(self.address.as_ref()),
            Cell::text(self.egress.as_ref().map(|places| places.join(" ")).as_ref()),
            Cell::text(self.address6.as_ref()),
            Cell::text(self.egress6.as_ref().map(|places| places.join(" ")).as_ref()),
            forwards(&self.forwards),
            Cell::pairs(&self.labels),
            words(&self.owner),
            words(&self.id),
            Cell::text(self.note.as_ref()),
            problem(self.problem.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Shown for HostView {
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("STATUS"),
        column("GUESTS"),
        column("CPUS"),
        column("MEMORY"),
        column("TAKEN"),
        column("CPU_USED"),
        column("MEM_USED"),
        column("MEASURED"),
        wide("DRIVERS"),
        wide("HEARD"),
        wide("LOST"),
        wide("AGENT"),
        wide("KERNEL"),
        wide("OS"),
        wide("CPU"),
        wide("DISK_FREE"),
        wide("PRIVILEGES"),
        wide("LABELS"),
        wide("CREATED"),
        wide("ID"),
        wide("PROBLEM"),
    ];
    fn cells(&self) -> Vec<Cell> {
        let inventory = self.inventory.as_ref();
        let drivers: Option<String> = inventory.map(|i| {
            i.drivers.iter().map(|d| format!("{}/{}", d.driver, d.acceleration)).collect::<Vec<_>>().join(",")
        });
        vec![
            words(&self.name),
            words(&self.status),
            Cell::Number(self.guests.into()),
            count(inventory.map(|i| i.cpus.into())),
            inventory.map_or(Cell::Missing, |i| Cell::Bytes(i.memory_bytes)),
            Cell::Bytes(self.memory_taken_bytes),
            percent(self.load.as_ref().and_then(|l| l.cpu_usage_ratio)),
            percent(self.load.as_ref().and_then(|l| Some(l.memory_used_bytes? / l.memory_total_bytes?))),
            Cell::time(self.load.as_ref().map(|l| &l.measured_at)),
            Cell::text(drivers.as_ref()),
            Cell::time(self.heard_at.as_ref()),
            count(self.load.as_ref().and_then(|l| i64::try_from(l.frames_lost).ok())),
            Cell::text(inventory.map(|i| &i.agent_version)),
            Cell::text(inventory.map(|i| &i.kernel_release)),
            Cell::text(inventory.map(|i| &i.os)),
            Cell::text(inventory.map(|i| &i.cpu_model)),
            inventory.map_or(Cell::Missing, |i| Cell::Bytes(i.disk_free_bytes)),
            Cell::text(inventory.map(|i| &i.privileges)),
            Cell::pairs(&self.labels),
            moment(&self.created_at),
            words(&self.id),
            problem(self.problem.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Shown for ImageView {
    const COLUMNS: &'static [Column] = &[
        column("NAME"),
        column("STATE"),
        column("ARCH"),
        column("SIZE"),
        column("KERNEL"),
        column("CREATED"),
        wide("PARTS"),
        wide("ID"),
    ];
    fn cells(&self) -> Vec<Cell> {
        let part = |p: &perigee_api::PartView| format!("{}:{}", p.role, p.digest.get(..12).unwrap_or(&p.digest));
        vec![
            words(&self.name),
            words(&self.state),
            words(&self.arch),
            Cell::Bytes(self.bytes),
            Cell::text(self.kernel_release.as_ref()),
            moment(&self.created_at),
            words(&self.parts.iter().map(part).collect::<Vec<_>>().join(",")),
            words(&self.id),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Shown for CatalogueEntryView {
    const COLUMNS: &'static [Column] =
        &[column("NAME"), column("ARCH"), column("FORMAT"), column("TITLE"), wide("URL"), wide("CHECKSUM")];
    fn cells(&self) -> Vec<Cell> {
        vec![
            words(&self.name),
            words(&self.arch),
            words(&self.format),
            words(&self.title),
            words(&self.url),
            Cell::text(self.checksum.as_ref().or(self.checksums_url.as_ref())),
        ]
    }
    fn name(&self) -> String {
        self.name.clone()
    }
}

impl Shown for TaskView {
    const COLUMNS: &'static [Column] = &[
        column("ID"),
        column("KIND"),
        column("STATE"),
        column("PRIORITY"),
        column("ATTEMPTS"),
        column("CREATED"),
        column("NOTE"),
        wide("PROGRESS"),
        wide("SUBJECT"),
        wide("OWNER"),
        wide("WORKER"),
        wide("STARTED"),
        wide("COMPLETED"),
        wide("PROBLEM"),
    ];
    fn cells(&self) -> Vec<Cell> {
        let subject = self.execution_id.as_ref().or(self.volume_id.as_ref()).or(self.network_id.as_ref());
        let subject = subject.or(self.sandbox_id.as_ref()).or(self.image_id.as_ref());
        vec![
            words(&self.id),
            words(&self.kind),
            words(&self.state),
            words(&self.priority),
            words(&format!("{}/{}", self.attempts, self.attempts_max)),
            moment(&self.created_at),
            Cell::text(self.note.as_ref()),
            self.progress_percent.map_or(Cell::Missing, |p| Cell::Text(format!("{p}%"))),
            Cell::text(subject),
            words(&self.owner),
            Cell::text(self.worker.as_ref()),
            Cell::time(self.started_at.as_ref()),
            Cell::time(self.completed_at.as_ref()),
            problem(self.problem.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.id.clone()
    }
}

impl Shown for ExecutionView {
    const COLUMNS: &'static [Column] = &[
        column("ID"),
        column("SANDBOX"),
        column("STATE"),
        column("EXIT"),
        column("TOOK"),
        column("CREATED"),
        column("COMMAND"),
        wide("STDOUT"),
        wide("STDERR"),
        wide("STARTED"),
        wide("ENDED"),
        wide("TASK"),
        wide("PROBLEM"),
    ];
    fn cells(&self) -> Vec<Cell> {
        vec![
            words(&self.id),
            words(&self.sandbox),
            words(&self.state),
            count(self.exit_code.map(i64::from)),
            self.duration_ms.map_or(Cell::Missing, Cell::Millis),
            moment(&self.created_at),
            Cell::command(&self.argv),
            Cell::Bytes(self.stdout_bytes),
            Cell::Bytes(self.stderr_bytes),
            Cell::time(self.started_at.as_ref()),
            Cell::time(self.ended_at.as_ref()),
            Cell::text(self.task_id.as_ref()),
            problem(self.problem.as_ref()),
        ]
    }
    fn name(&self) -> String {
        self.id.clone()
    }
}

impl Shown for EventView {
    const COLUMNS: &'static [Column] = &[
        column("SEQ"),
        column("AT"),
        column("ACTOR"),
        column("VERB"),
        column("SUBJECT"),
        column("DETAIL"),
        wide("NOUN"),
        wide("REQUEST"),
        wide("ID"),
    ];
    fn cells(&self) -> Vec<Cell> {
        vec![
            Cell::Number(self.seq),
            moment(&self.at),
            words(&self.actor),
            words(&self.verb),
            words(&self.subject_id),
            words(&self.detail),
            words(&self.noun),
            Cell::text(self.request_id.as_ref()),
            words(&self.id),
        ]
    }
    fn name(&self) -> String {
        self.id.clone()
    }
}

/// A time.
pub fn moment(text: &str) -> Cell {
    Cell::Time(text.to_owned())
}
