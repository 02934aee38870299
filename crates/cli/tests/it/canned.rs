//! Objects as a control plane shows them, and the table that answers with them.

use crate::fake::{Reply, Seen, json, refusal};
use perigee_api::problem::ProblemView;
use perigee_api::{
    AbilitiesView, BackupScheduleView, CatalogueEntryView, EventView, ExecutionView, ForeignVmView, HostView,
    ImageView, InventoryView, JoinTokenView, LoadView, NetworkView, Page, PartView, ReadyPart, ReadyView, SandboxView,
    TaskView, UploadView, VmPart, VmView, VolumeView,
};
use perigee_model::Code;
use std::collections::BTreeMap;

const AT: &str = "2026-10-03T10:00:00.000000Z";

pub fn id(end: u32) -> String {
    format!("0199c0de-7000-7000-8000-{end:012x}")
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

pub fn sandbox() -> SandboxView {
    SandboxView {
        id: id(0xa1),
        name: "web".to_owned(),
        kind: "sandbox".to_owned(),
        tenant: "default".to_owned(),
        owner: "local".to_owned(),
        status: "running".to_owned(),
        note: None,
        problem: None,
        image: "base".to_owned(),
        image_id: id(0xc1),
        cpus: 1,
        memory_bytes: 256 << 20,
        host: some("host-1"),
        host_id: some(&id(0xb1)),
        labels: BTreeMap::from([("team".to_owned(), "blue".to_owned())]),
        created_at: AT.to_owned(),
        expires_at: some("2026-10-03T11:00:00.000000Z"),
        kernel_release: some("6.1.0-40-cloud-amd64"),
        boot_ms: Some(1234),
        egress: None,
        egress6: None,
        address6: None,
        address: None,
        forwards: Vec::new(),
        caught_up: true,
        generation: 3,
    }
}

pub fn failed_sandbox() -> SandboxView {
    SandboxView {
        id: id(0xa2),
        name: "hostile".to_owned(),
        status: "failed".to_owned(),
        problem: Some(ProblemView {
            code: "PRG-7001".to_owned(),
            detail: "no hello,\n\u{1b}[31mwithin 15 s".to_owned(),
        }),
        host: None,
        host_id: None,
        labels: BTreeMap::new(),
        expires_at: None,
        kernel_release: None,
        boot_ms: None,
        ..sandbox()
    }
}

/// One of ours, which uses something.
pub fn vm() -> VmView {
    let part = VmPart {
        description: "the <shop>".to_owned(),
        metadata: BTreeMap::from([("ticket".to_owned(), "7".to_owned())]),
        disk_bytes: Some(20 << 30),
        network: some("default"),
        mac: some("52:54:00:00:00:01"),
        addresses: vec!["192.0.2.7".to_owned()],
        firmware: "bios".to_owned(),
        tpm: false,
        restart: "on_failure".to_owned(),
        start_order: 0,
        restart_needed: false,
        adopted: false,
        backups: Some(BackupScheduleView {
            every_ms: 24 * 3_600_000,
            offset_ms: 3 * 3_600_000,
            keep: 7,
            encrypted: true,
            next_at: "2026-10-04T03:00:00Z".to_owned(),
        }),
        restored_from: None,
        volumes: Vec::new(),
    };
    let guest = SandboxView { name: "db".to_owned(), kind: "vm".to_owned(), expires_at: None, ..sandbox() };
    VmView { guest, vm: Some(part), resident_bytes: Some(96 << 20), cpu_cores: Some(0.256) }
}

fn foreign_vm() -> ForeignVmView {
    ForeignVmView {
        id: id(0xa9),
        name: "win10".to_owned(),
        status: "stopped".to_owned(),
        busy: false,
        host: "host-1".to_owned(),
        host_id: id(0xb1),
        driver: "libvirt".to_owned(),
        cpus: Some(4),
        memory_bytes: Some(8 << 30),
        resident_bytes: None,
        cpu_cores: None,
        measured_at: AT.to_owned(),
    }
}

pub fn host() -> HostView {
    let driver = AbilitiesView {
        driver: "qemu-microvm".to_owned(),
        version: "7.2.19".to_owned(),
        acceleration: "tcg".to_owned(),
        channel: true,
        pause: true,
        snapshots: false,
        volumes: false,
        networks: false,
        boots_in_flight_max: 2,
    };
    HostView {
        id: id(0xb1),
        name: "host-1".to_owned(),
        status: "connected".to_owned(),
        status_since: some(AT),
        heard_at: some(AT),
        problem: None,
        labels: BTreeMap::new(),
        tags: BTreeMap::new(),
        guests: 2,
        memory_taken_bytes: 512 << 20,
        created_at: AT.to_owned(),
        load: Some(LoadView {
            measured_at: "2026-10-03T10:00:00Z".into(),
            cpu_usage_ratio: Some(0.25),
            memory_used_bytes: Some(1073741824.0),
            memory_total_bytes: Some(4294967296.0),
            load1: Some(0.5),
            frames_lost: 0,
        }),
        inventory: Some(InventoryView {
            hostname: "host-1".to_owned(),
            arch: "x86_64".to_owned(),
            kernel_release: "6.1.0-40-amd64".to_owned(),
            os: "Debian GNU/Linux 12".to_owned(),
            cpus: 2,
            cpu_model: "Some CPU".to_owned(),
            memory_bytes: 8 << 30,
            disk_bytes: 100 << 30,
            disk_free_bytes: 60 << 30,
            agent_version: "0.1.0".to_owned(),
            privileges: "root".to_owned(),
            drivers: vec![driver],
        }),
    }
}

pub fn image() -> ImageView {
    ImageView {
        id: id(0xc1),
        name: "base".to_owned(),
        tenant: "default".to_owned(),
        arch: "x86_64".to_owned(),
        state: "ready".to_owned(),
        bytes: 25 << 20,
        parts: vec![PartView { role: "kernel".to_owned(), digest: "ab".repeat(32), bytes: 8 << 20 }],
        kernel_release: some("6.1.0-40-cloud-amd64"),
        created_at: AT.to_owned(),
    }
}

pub fn task(end: u32, kind: &str, state: &str) -> TaskView {
    TaskView {
        id: id(end),
        kind: kind.to_owned(),
        state: state.to_owned(),
        priority: "default".to_owned(),
        tenant: "default".to_owned(),
        owner: "local".to_owned(),
        sandbox_id: some(&id(0xa1)),
        image_id: None,
        volume_id: None,
        network_id: None,
        execution_id: None,
        backup_id: None,
        attempts: 1,
        attempts_max: 3,
        worker: None,
        note: some("booting"),
        progress_percent: Some(40),
        problem: None,
        created_at: AT.to_owned(),
        scheduled_at: AT.to_owned(),
        started_at: some(AT),
        completed_at: None,
    }
}

pub fn execution() -> ExecutionView {
    ExecutionView {
        id: id(0xe1),
        sandbox_id: id(0xa1),
        sandbox: "web".to_owned(),
        task_id: None,
        argv: ["sh", "-c", "echo hi; exit 7"].map(str::to_owned).to_vec(),
        state: "exited".to_owned(),
        exit_code: Some(7),
        stdout: "hi\n".to_owned(),
        stdout_base64: None,
        stdout_bytes: 3,
        stderr: String::new(),
        stderr_base64: None,
        stderr_bytes: 0,
        truncated: false,
        created_at: AT.to_owned(),
        started_at: some(AT),
        ended_at: some(AT),
        duration_ms: Some(12),
        problem: None,
    }
}

fn event(seq: i64) -> EventView {
    EventView {
        seq,
        id: id(0xf0),
        at: AT.to_owned(),
        actor: "local".to_owned(),
        verb: "guest.create".to_owned(),
        noun: "guest".to_owned(),
        subject_id: id(0xa1),
        request_id: None,
        detail: "web".to_owned(),
    }
}

fn page<T>(items: Vec<T>) -> Page<T> {
    Page { items, next_page_token: None }
}

/// Two pages, so that every list command has to turn one.
fn sandboxes(query: &str) -> Reply {
    if query.contains("page_token=two") {
        return json(200, &page(vec![failed_sandbox()]));
    }
    json(200, &Page { items: vec![sandbox()], next_page_token: some("two") })
}

/// An instance with one of everything.
pub fn answers(seen: &Seen) -> Reply {
    let (path, query) = seen.path.split_once('?').unwrap_or((&seen.path, ""));
    let segments: Vec<&str> = path.trim_start_matches("/api/v1/").split('/').collect();
    let running = |kind| task(0xd1, kind, "running");
    match (seen.method.as_str(), segments.as_slice()) {
        ("GET", ["sandboxes"]) => sandboxes(query),
        ("POST", ["sandboxes"]) => json(202, &running("vm:create")),
        ("GET", ["sandboxes", name]) if [*name == "web", *name == id(0xa1)].contains(&true) => json(200, &sandbox()),
        ("GET", ["sandboxes", _, "exec"]) => Reply { status: 101, media: "", body: Vec::new() },
        ("GET", ["sandboxes", _, "files"]) => {
            Reply { status: 200, media: "application/octet-stream", body: b"content\n".to_vec() }
        }
        ("PUT", ["sandboxes", _, "files"]) => Reply { status: 204, media: "text/plain", body: Vec::new() },
        ("DELETE", ["sandboxes", "gone"]) => refusal(Code::NoSuchGuest, 404, "gone is not known"),
        ("DELETE", ["sandboxes", _]) => json(202, &running("vm:delete")),
        ("GET", ["vms"]) => json(200, &page(vec![vm()])),
        ("GET", ["vms", "db"]) => json(200, &vm()),
        ("GET", ["foreign-vms"]) => json(200, &page(vec![foreign_vm()])),
        ("GET", ["volumes"]) => json(200, &page(vec![volume()])),
        ("GET", ["volumes", "data"]) => json(200, &volume()),
        ("DELETE", ["volumes", "data"]) => refusal(Code::VolumeAttached, 409, "data is attached to db"),
        ("GET", ["networks"]) => json(200, &page(vec![network()])),
        ("GET", ["networks", "lab"]) => json(200, &network()),
        ("DELETE", ["networks", "lab"]) => refusal(Code::NetworkInUse, 409, "db is on lab"),
        ("GET", ["hosts"]) => json(200, &page(vec![host()])),
        ("GET", ["hosts", "host-1"]) => json(200, &host()),
        ("DELETE", ["hosts", "host-1"]) => Reply { status: 204, media: "text/plain", body: Vec::new() },
        ("POST", ["hosts", "tokens"]) => json(
            201,
            &JoinTokenView {
                token: "join-me".to_owned(),
                url: "https://127.0.0.1:8443".to_owned(),
                expires_at: AT.to_owned(),
            },
        ),
        ("GET", ["images"]) => json(200, &page(vec![image()])),
        ("POST", ["images"]) => json(202, &TaskView { image_id: some(&id(0xc1)), ..running("image:build") }),
        ("GET", ["images", _]) => json(200, &image()),
        ("DELETE", ["images", "base"]) => refusal(Code::ImageInUse, 409, "web uses it"),
        ("GET", ["catalogue"]) => json(200, &page(vec![entry()])),
        ("GET", ["uploads", sum]) => json(200, &UploadView { sha256: (*sum).to_owned(), bytes: 5 }),
        ("PUT", ["uploads", sum]) => json(200, &UploadView { sha256: (*sum).to_owned(), bytes: 17 }),
        ("GET", ["tasks"]) => {
            json(200, &page(vec![task(0xd1, "vm:create", "running"), task(0xd2, "vm:delete", "pending")]))
        }
        ("GET", ["tasks", name]) if *name == id(0xd1) => {
            json(200, &TaskView { image_id: some(&id(0xc1)), ..task(0xd1, "vm:create", "succeeded") })
        }
        ("POST", ["tasks", _, "cancel"]) => json(200, &task(0xd1, "vm:create", "cancelled")),
        ("GET", ["executions"]) => json(200, &page(vec![execution()])),
        ("GET", ["executions", _]) => json(200, &execution()),
        ("GET", ["executions", _, "output"]) => {
            Reply { status: 200, media: "application/octet-stream", body: vec![0, 159, 146, 150] }
        }
        ("GET", ["events"]) => {
            json(200, &page(if query.starts_with("after=0&") { vec![event(1), event(2)] } else { vec![] }))
        }
        ("GET", ["", "health", "ready"]) => json(200, &ready()),
        _ => refusal(Code::NoSuchTask, 404, "nothing of that id is known"),
    }
}

fn volume() -> VolumeView {
    VolumeView {
        id: id(0xf1),
        name: "data".to_owned(),
        status: "attached".to_owned(),
        bytes: 10 << 30,
        host: "host-1".to_owned(),
        host_id: id(0xb1),
        vm: some("db"),
        vm_id: some(&id(0xa1)),
        serial: "0199c0de000070008000".to_owned(),
        labels: BTreeMap::from([("team".to_owned(), "db".to_owned())]),
        tenant: "default".to_owned(),
        owner: "local".to_owned(),
        created_at: AT.to_owned(),
    }
}

fn network() -> NetworkView {
    NetworkView {
        id: id(0xf2),
        name: "lab".to_owned(),
        status: "ready".to_owned(),
        kind: "nat".to_owned(),
        subnet: some("10.20.0.0/24"),
        bridge: some("virbr1"),
        host: "host-1".to_owned(),
        host_id: id(0xb1),
        vms: vec!["db".to_owned(), "web".to_owned()],
        description: "for tests".to_owned(),
        tenant: "default".to_owned(),
        owner: "local".to_owned(),
        created_at: AT.to_owned(),
    }
}

fn entry() -> CatalogueEntryView {
    CatalogueEntryView {
        name: "debian-12".to_owned(),
        title: "Debian 12".to_owned(),
        url: "https://a.example/d".to_owned(),
        checksum: None,
        checksums_url: some("https://a.example/SUMS"),
        format: "qcow2".to_owned(),
        arch: "x86_64".to_owned(),
    }
}

fn ready() -> ReadyView {
    let part = |name: &str, ready| ReadyPart { name: name.to_owned(), ready, text: "said so".to_owned() };
    ReadyView {
        ready: false,
        parts: vec![part("store", true), part("host host-1", false)],
        version: "0.1.0".to_owned(),
        instance: "7f3a".to_owned(),
    }
}
