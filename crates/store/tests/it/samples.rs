//! Records to write: full ones with every field set, and small ones.

use perigee_model::execution::{Command, Excerpt};
use perigee_model::guest::Problem;
use perigee_model::*;
use perigee_store::{Batch, IdempotencyRow, Key, Noun, Record};
use std::collections::BTreeMap;
use uuid::Uuid;

pub fn uuid(n: u64) -> Uuid {
    Uuid::from_u128(0x0197_0000_0000_7000_8000_0000_0000_0000 | u128::from(n))
}
pub fn at(n: i64) -> Timestamp {
    Timestamp::from_micros(1_767_225_600_123_456 + n)
}
pub fn name(text: &str) -> Name {
    Name::parse(text).unwrap()
}
pub fn tenant(text: &str) -> Tenant {
    Tenant::stored(text.to_owned())
}
fn labels() -> Labels {
    Labels::from([
        ("team/ü".to_owned(), "grün 🦀 \"quoted\" '; DROP TABLE hosts; --".to_owned()),
        ("z".into(), String::new()),
    ])
}
fn digest(n: u8) -> Digest {
    Digest::parse(&format!("{n:02x}").repeat(32)).unwrap()
}
fn parts() -> Vec<Part> {
    vec![
        Part { role: PartRole::Kernel, digest: digest(1), bytes: 12 << 20 },
        Part { role: PartRole::Initrd, digest: digest(2), bytes: u64::MAX },
        Part { role: PartRole::Disk, digest: digest(3), bytes: 0 },
    ]
}
fn problem() -> Problem {
    Problem { code: "PRG-4711".into(), text: "näher am Mond\0\n\u{1F600}".into() }
}

pub fn host(n: u64) -> Host {
    Host {
        id: HostId::new(uuid(n)),
        name: name(&format!("host-{n}")),
        labels: labels(),
        created_at: at(1),
        revoked: false,
        drained: true,
        inventory: Some(Inventory {
            hostname: "höst\0.example".into(),
            arch: "x86_64".into(),
            kernel_release: "6.1.0-31-amd64".into(),
            os: "Debian GNU/Linux 12 (bookworm)".into(),
            cpus: u32::MAX,
            cpu_model: "AMD EPYC".into(),
            memory_bytes: u64::MAX,
            disk_bytes: 1 << 40,
            disk_free_bytes: 1 << 30,
            agent_version: "0.1.0".into(),
            privileges: "reduced: no KVM".into(),
            drivers: vec![Abilities {
                driver: "qemu-microvm".into(),
                kinds: vec![GuestKind::Sandbox, GuestKind::Vm],
                version: "7.2".into(),
                acceleration: Acceleration::Tcg,
                channel: true,
                pause: false,
                halt: false,
                console: false,
                snapshots: true,
                volumes: true,
                networks: true,
                adopt: false,
                boots_in_flight_max: 3,
            }],
        }),
        run: Some(RunId::new(uuid(n + 1000))),
        seen_at: Some(at(9)),
        reporting: Reporting { generation: u64::MAX, key: Some([0xfe; 32]), tags: labels() },
        revision: 0,
    }
}

pub fn guest(n: u64, called: &str) -> Guest {
    Guest {
        id: GuestId::new(uuid(n)),
        name: name(called),
        tenant: tenant("default"),
        owner: "Zoë \0".into(),
        kind: GuestKind::Sandbox,
        labels: labels(),
        spec: GuestSpec {
            image: ImageId::new(uuid(7)),
            image_name: name("base"),
            parts: parts(),
            resources: Resources { cpus: 4, memory_bytes: 512 << 20 },
            env: BTreeMap::from([("PATH".to_owned(), "/bin:/ü".to_owned())]),
            ttl_ms: Some(u64::MAX),
            host_wanted: Some(HostId::new(uuid(8))),
            vm: Some(Box::new(vm())),
            egress: None,
            egress6: None,
            forwards: vec!["8080:80".parse().unwrap()],
        },
        desired: Desired {
            generation: u64::MAX,
            host: Some(HostId::new(uuid(8))),
            power: Power::Running,
            expires_at: Some(at(5)),
            restarts: 2,
            grace_ms: 60_000,
            release: false,
        },
        observed: Some(Observed {
            generation: 3,
            sequence: 1 << 63,
            phase: Phase::Failed,
            since: at(4),
            note: Some("waiting for a boot slot, 3 before it".into()),
            problem: Some(problem()),
            kernel_release: Some("6.1.0".into()),
            boot_ms: Some(431),
            restarts: 1,
            booted: Some(Resources { cpus: 2, memory_bytes: 256 << 20 }),
            addresses: vec!["192.0.2.7".parse().unwrap(), "2001:db8::7".parse().unwrap()],
            forwards: vec!["udp/5353:53".parse().unwrap()],
            volumes: Vec::new(),
        }),
        created_at: at(0),
        gone_at: None,
        acted: None,
        backups: Some(BackupSchedule {
            every_ms: 86_400_000,
            offset_ms: 0,
            keep: 7,
            sealed: true,
            owner: "Zoë".into(),
            last: at(3),
        }),
        snapshots: vec![Snapshot {
            id: SnapshotId::new(uuid(11)),
            name: name("before"),
            description: "the \u{1f600} day".into(),
            memory: true,
            state: SnapshotState::Ready,
            created_at: at(3),
            taken: Some(Taken { at: at(4), memory_bytes: 71 << 20, booted: None }),
        }],
        revision: 0,
    }
}

fn vm() -> VmSpec {
    VmSpec {
        description: "mail & <more>\n\u{1f600}".into(),
        metadata: Default::default(),
        disk_bytes: Some(20 << 30),
        network: Some(name("default")),
        mac: Mac::from_bits(7),
        ssh_keys: vec!["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIF me".into()],
        firmware: Firmware::Uefi,
        tpm: true,
        restart: RestartPolicy::Never,
        start_order: 3,
        adopted: true,
        origin: None,
        volumes: Vec::new(),
    }
}

pub fn image(n: u64, called: &str) -> Image {
    Image {
        id: ImageId::new(uuid(n)),
        name: name(called),
        tenant: tenant("default"),
        owner: "o".into(),
        arch: "aarch64".into(),
        parts: parts(),
        kernel_release: Some("6.1.0".into()),
        state: ImageState::Building,
        created_at: at(2),
        revision: 0,
    }
}

pub fn task(n: u64) -> Task {
    Task {
        id: TaskId::new(uuid(n)),
        tenant: tenant("blue"),
        owner: "o".into(),
        kind: TaskKind::GuestExecute { guest: GuestId::new(uuid(1)), execution: ExecutionId::new(uuid(2)) },
        priority: Priority::Critical,
        state: TaskState::Dead,
        attempts: 3,
        attempts_max: u32::MAX,
        worker: Some("w-1".into()),
        epoch: 1 << 40,
        host: Some(HostId::new(uuid(8))),
        generation: Some(12),
        cancel_asked: true,
        note: Some("waiting for room".into()),
        progress_percent: Some(99),
        problem: Some(problem()),
        created_at: at(1),
        scheduled_at: at(2),
        started_at: Some(at(3)),
        completed_at: Some(at(4)),
        revision: 0,
    }
}

pub fn execution(n: u64) -> Execution {
    Execution {
        id: ExecutionId::new(uuid(n)),
        guest: GuestId::new(uuid(1)),
        task: Some(TaskId::new(uuid(2))),
        tenant: tenant("default"),
        owner: "o".into(),
        command: Command {
            argv: vec!["sh".into(), "-c".into(), "echo ü".into()],
            env: BTreeMap::from([("A".to_owned(), "1".to_owned())]),
            cwd: Some("/tmp".into()),
            user: Some("nobody".into()),
            timeout_ms: Some(5),
            output_limit_bytes: Some(1 << 20),
        },
        state: ExecutionState::Ended,
        outcome: Some(Outcome::FailedToStart { text: "ENOENT".into() }),
        stdout: Excerpt {
            head: (0..=255).collect(),
            tail: vec![0xff, 0xfe, 0, 0xc3],
            bytes: u64::MAX,
            truncated: true,
        },
        stderr: Excerpt { head: vec![0; 32 << 10], tail: Vec::new(), bytes: 1, truncated: false },
        created_at: at(1),
        started_at: Some(at(2)),
        ended_at: Some(at(3)),
        duration_ms: Some(1),
        problem: Some(problem()),
        revision: 0,
    }
}

pub fn key(n: u64) -> Key {
    Key {
        digest: format!("{n:064x}"),
        name: "Änne's laptop".into(),
        tenant: tenant("default"),
        role: Some(Role::Operator),
        created_at: at(1),
        expires_at: Some(at(2)),
        revision: 0,
    }
}

pub fn backup(n: u64, called: &str) -> Backup {
    Backup {
        id: BackupId::new(uuid(n)),
        name: name(called),
        tenant: tenant("default"),
        owner: "Zoë \0".into(),
        description: "before the \u{1f600} day".into(),
        guest: GuestId::new(uuid(9)),
        guest_name: name("db"),
        labels: labels(),
        spec: guest(9, "db").spec,
        arch: "x86_64".into(),
        sealed: true,
        scheduled: true,
        state: BackupState::Ready,
        created_at: at(1),
        stored: Some(Stored {
            at: at(2),
            index: digest(4),
            quiesced: true,
            disk_bytes: 20 << 30,
            since: Some(BackupId::new(uuid(12))),
            read_bytes: 4 << 20,
            new_bytes: u64::MAX,
            kept_bytes: 0,
        }),
        verified: Some(backup::Verified { at: at(3), fault: Some("a chunk is not there".into()), booted: None }),
        revision: 0,
    }
}

pub fn volume(n: u64, called: &str) -> Volume {
    Volume {
        id: VolumeId::new(uuid(n)),
        name: name(called),
        tenant: tenant("default"),
        owner: "Zoë".into(),
        labels: labels(),
        host: HostId::new(uuid(8)),
        bytes: 64 << 40,
        guest: Some(GuestId::new(uuid(2))),
        absent: true,
        generation: u64::MAX,
        stored_bytes: Some(1 << 30),
        created_at: at(1),
        revision: 0,
    }
}

pub fn network(n: u64, called: &str) -> Network {
    Network {
        id: NetworkId::new(uuid(n)),
        name: name(called),
        tenant: tenant("default"),
        owner: "Zoë".into(),
        description: "für\u{0}alle".into(),
        host: HostId::new(uuid(8)),
        kind: NetworkKind::Isolated,
        subnet: "10.20.0.0/24".parse().ok(),
        bridge: Some("virbr1".into()),
        made: true,
        absent: true,
        generation: u64::MAX,
        created_at: at(1),
        revision: 0,
    }
}

/// One of each with every field set, one of each with nothing that can be absent.
pub fn zoo() -> Vec<Record> {
    let mut bare_host = host(101);
    (bare_host.inventory, bare_host.run, bare_host.seen_at) = (None, None, None);
    bare_host.labels.clear();
    let mut bare_guest = guest(102, "bare");
    (bare_guest.observed, bare_guest.gone_at) = (None, Some(at(7)));
    (bare_guest.desired.host, bare_guest.desired.expires_at) = (None, None);
    let mut bare_image = image(103, "bare");
    (bare_image.parts, bare_image.kernel_release) = (Vec::new(), None);
    let mut bare_task = task(104);
    bare_task.kind = TaskKind::ImageBuild { image: ImageId::new(uuid(103)), recipe: Recipe::Base };
    (bare_task.worker, bare_task.host) = (None, None);
    (bare_task.generation, bare_task.note) = (None, None);
    (bare_task.progress_percent, bare_task.problem) = (None, None);
    (bare_task.started_at, bare_task.completed_at) = (None, None);
    let mut bare_execution = execution(105);
    (bare_execution.task, bare_execution.outcome, bare_execution.problem) = (None, None, None);
    (bare_execution.stdout, bare_execution.stderr) = (Excerpt::default(), Excerpt::default());
    (bare_execution.started_at, bare_execution.ended_at, bare_execution.duration_ms) = (None, None, None);
    bare_execution.command.argv.clear();
    let mut bare_key = key(106);
    (bare_key.role, bare_key.expires_at) = (None, None);
    let mut bare_backup = backup(108, "bare");
    (bare_backup.stored, bare_backup.verified, bare_backup.state) = (None, None, BackupState::Creating);
    let mut bare_volume = volume(107, "bare");
    (bare_volume.guest, bare_volume.stored_bytes, bare_volume.absent) = (None, None, false);
    bare_volume.labels.clear();
    let mut bare_network = network(110, "bare");
    (bare_network.subnet, bare_network.bridge, bare_network.made) = (None, None, false);
    bare_network.description.clear();
    let mut network_task = task(111);
    network_task.kind = TaskKind::NetworkDelete { network: NetworkId::new(uuid(9)) };
    let mut volume_task = task(109);
    let (of, into) = (VolumeId::new(uuid(7)), GuestId::new(uuid(2)));
    volume_task.kind = TaskKind::VolumeAttach { volume: of, guest: into };
    vec![
        Record::Volume(volume(7, "data")),
        Record::Volume(bare_volume),
        Record::Task(volume_task),
        Record::Network(network(9, "lab")),
        Record::Network(bare_network),
        Record::Task(network_task),
        Record::Host(host(1)),
        Record::Host(bare_host),
        Record::Guest(guest(2, "web-1")),
        Record::Guest(bare_guest),
        Record::Image(image(3, "base")),
        Record::Image(bare_image),
        Record::Task(task(4)),
        Record::Task(bare_task),
        Record::Execution(execution(5)),
        Record::Execution(bare_execution),
        Record::Key(key(6)),
        Record::Key(bare_key),
        Record::Backup(backup(107, "db-1")),
        Record::Backup(bare_backup),
    ]
}

pub fn event(n: u64, detail: &str) -> Event {
    Event {
        id: EventId::new(uuid(n)),
        at: at(i64::try_from(n).unwrap()),
        tenant: tenant("default"),
        actor: "host:ü".into(),
        verb: "guest.create".into(),
        subject: Subject { noun: "guest".into(), id: uuid(2).to_string() },
        request_id: n.is_multiple_of(2).then(|| format!("req-{n}")),
        detail: detail.into(),
    }
}

pub fn idempotency(key: &str) -> IdempotencyRow {
    IdempotencyRow {
        scope: "default/anna/POST /v1/vms".into(),
        key: key.into(),
        fingerprint: "ab".repeat(32),
        subject: uuid(4).to_string(),
        at: at(0),
        answer: None,
    }
}

pub fn batch(records: impl IntoIterator<Item = Record>) -> Batch {
    let mut batch = Batch::default();
    records.into_iter().for_each(|record| batch.insert(record));
    batch
}

pub fn update(record: Record) -> Batch {
    let mut batch = Batch::default();
    batch.update(record);
    batch
}

/// The guest, one write later.
pub fn next(guest: &Guest) -> Guest {
    Guest { revision: guest.revision + 1, ..guest.clone() }
}

pub fn of(noun: Noun, records: &[Record]) -> Vec<Record> {
    let mut found: Vec<Record> = records.iter().filter(|r| r.noun() == noun).cloned().collect();
    found.sort_by_key(Record::id);
    found
}
