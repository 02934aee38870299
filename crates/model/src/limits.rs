//! Every bound in one place. A collection, string, page, retry or buffer that is not bounded here
//! is a defect.

use std::time::Duration;

/// Longest guest, image or host name: one DNS label (RFC 1035).
pub const NAME_CHARS_MAX: usize = 63;
/// Longest label key or value.
pub const LABEL_CHARS_MAX: usize = 128;
/// Most labels on one object.
pub const LABELS_MAX: usize = 32;
/// Longest reason, note or problem text that is stored.
pub const TEXT_BYTES_MAX: usize = 4096;

/// Most virtual CPUs of one guest.
pub const GUEST_CPUS_MAX: u32 = 256;
/// Least memory a guest boots with.
pub const GUEST_MEMORY_BYTES_MIN: u64 = 64 << 20;
/// Most memory of one guest.
pub const GUEST_MEMORY_BYTES_MAX: u64 = 4 << 40;
/// Memory of a sandbox when none is asked for.
pub const SANDBOX_MEMORY_BYTES_DEFAULT: u64 = 256 << 20;
/// A sandbox lives this long when no `--ttl` is given.
pub const SANDBOX_TTL_DEFAULT: Duration = Duration::from_secs(3600);
/// Shortest and longest life that may be asked for.
pub const SANDBOX_TTL_MIN: Duration = Duration::from_secs(1);
/// Longest life that may be asked for.
pub const SANDBOX_TTL_MAX: Duration = Duration::from_secs(30 * 86_400);

/// Longest description of a VM.
pub const VM_DESCRIPTION_BYTES_MAX: usize = 4096;
/// Most entries of a VM's metadata.
pub const VM_METADATA_MAX: usize = 64;
/// Most bytes of a VM's metadata, keys and values together.
pub const VM_METADATA_BYTES_MAX: usize = 16 << 10;
/// Smallest disk of a VM.
pub const VM_DISK_BYTES_MIN: u64 = 1 << 20;
/// Largest disk of a VM.
pub const VM_DISK_BYTES_MAX: u64 = 64 << 40;
/// Memory of a VM when none is asked for.
pub const VM_MEMORY_BYTES_DEFAULT: u64 = 1 << 30;
/// A VM asked to stop gets this long before it is ended, when nothing else is said.
pub const VM_STOP_GRACE: Duration = Duration::from_secs(60);
/// Longest time a VM may be given to stop.
pub const VM_STOP_GRACE_MAX: Duration = Duration::from_secs(3600);
/// Longest user-data of a VM.
pub const USER_DATA_BYTES_MAX: usize = 1 << 20;
/// Most SSH keys of a VM.
pub const SSH_KEYS_MAX: usize = 64;
/// Longest SSH key.
pub const SSH_KEY_BYTES_MAX: usize = 16 << 10;

/// Most snapshots of one VM.
pub const SNAPSHOTS_PER_GUEST_MAX: usize = 32;

/// A backup's chunk: so many bytes of a disk, the last one fewer.
pub const BACKUP_CHUNK_BYTES: usize = 4 << 20;
/// Largest index of a backup, and with it the most bytes of anything in a repository.
pub const BACKUP_INDEX_BYTES_MAX: usize = 64 << 20;
/// Largest disk that is backed up: what such an index has room for.
pub const BACKUP_DISK_BYTES_MAX: u64 = (8 << 40) - (4 << 20);
/// Most backups of one VM.
pub const BACKUPS_PER_GUEST_MAX: usize = 1000;
/// Shortest time between two backups that a schedule asks for.
pub const BACKUP_EVERY_MIN: Duration = Duration::from_secs(900);
/// A backup, a restore or a look at all of a backup's bytes may take this long.
pub const BACKUP_DEADLINE: Duration = Duration::from_secs(86_400);
/// Smallest volume.
pub const VOLUME_BYTES_MIN: u64 = 1 << 20;
/// Largest volume.
pub const VOLUME_BYTES_MAX: u64 = 64 << 40;
/// Most volumes attached to one VM.
pub const VOLUMES_PER_GUEST_MAX: usize = 16;
/// Most volumes on one host.
pub const VOLUMES_PER_HOST_MAX: usize = 10_000;
/// Most networks on one host.
pub const NETWORKS_PER_HOST_MAX: usize = 256;

/// What new disks, volumes and images leave free of a host's file system, at least.
pub const DISK_RESERVE_BYTES_MIN: u64 = 1 << 30;
/// The same as a share of the file system: one of so many parts. The larger of the two holds.
pub const DISK_RESERVE_PARTS: u64 = 50;
/// What a host keeps of images, unless it is told: so many bytes at least, enough for a handful of distributions.
pub const CACHE_BYTES_MIN: u64 = 10 << 30;
/// The same as a share of the file system: one of so many parts. The larger of the two holds.
pub const CACHE_PARTS: u64 = 10;
/// A VM that stands because its host's disk is full goes on when so much is free.
pub const DISK_ROOM_BYTES: u64 = 16 << 20;
/// How often it is looked at whether there is.
pub const DISK_LOOK_EVERY: Duration = Duration::from_secs(3);

/// Most arguments of one command.
pub const ARGV_MAX: usize = 1024;
/// Most bytes of one command: arguments and environment together.
pub const ARGV_BYTES_MAX: usize = 128 << 10;
/// Most environment variables of one command or guest.
pub const ENV_MAX: usize = 256;
/// Output kept of one execution, per stream, when no limit is asked for.
pub const OUTPUT_BYTES_DEFAULT: u64 = 16 << 20;
/// Most output that may be asked for, per stream.
pub const OUTPUT_BYTES_MAX: u64 = 1 << 30;
/// An execution's row keeps this much of the beginning and of the end of each stream.
pub const OUTPUT_EXCERPT_BYTES: usize = 32 << 10;
/// Longest run of one command.
pub const EXEC_TIMEOUT_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Executions in flight in one guest.
pub const EXECUTIONS_PER_GUEST_MAX: usize = 256;
/// Longest path inside a guest.
pub const PATH_BYTES_MAX: usize = 4096;

/// Memory of a host that guests never get.
pub const HOST_RESERVE_BYTES: u64 = 512 << 20;

/// A VM that is made from a backup to see whether it boots shows a sign of life within this time.
pub const TRIAL_TIMEOUT: Duration = Duration::from_secs(600);
/// It removes itself after this, should nobody be there to remove it.
pub const TRIAL_LIFE: Duration = Duration::from_secs(1800);
/// A boot that got its slot must say hello within this time.
pub const BOOT_TIMEOUT: Duration = Duration::from_secs(15);
/// The second boot attempt (`-icount`, slower clock) gets this long.
pub const BOOT_RETRY_TIMEOUT: Duration = Duration::from_secs(60);
/// A guest asked to stop gets this long before it is killed.
pub const STOP_GRACE: Duration = Duration::from_secs(5);

/// Agents report that they live this often.
pub const HEARTBEAT_EVERY: Duration = Duration::from_secs(30);
/// Two agents with one host's identity are shown for so long after the older one was last heard.
pub const TWINS_SHOWN: Duration = Duration::from_secs(300);
/// A host that was silent for this long is shown as `stale`; it is never called dead.
pub const HOST_STALE_AFTER: Duration = Duration::from_secs(75);
/// First wait of an agent that lost its link; doubles, with full jitter.
pub const RECONNECT_FIRST: Duration = Duration::from_millis(250);
/// Longest wait between two attempts of an agent to reconnect.
pub const RECONNECT_MAX: Duration = Duration::from_secs(30);
/// The same where both are on one machine: no fleet shares that way, and its owner is watching.
pub const RECONNECT_MAX_LOCAL: Duration = Duration::from_secs(2);
/// Desired state is sent whole this often, so that a lost nudge costs time only.
pub const RESYNC_EVERY: Duration = Duration::from_secs(60);
/// Queued messages from control plane to one agent.
pub const LINK_QUEUE_MAX: usize = 1024;
/// Tunnels open at once on one host.
pub const TUNNELS_PER_HOST_MAX: usize = 512;
/// A ticket to a console is good for this long, once.
pub const CONSOLE_TICKET_LIFE: Duration = Duration::from_secs(30);
/// Tickets to consoles that are not used yet.
pub const CONSOLE_TICKETS_MAX: usize = 1024;
/// A host opens a console within this time.
pub const CONSOLE_OPEN_TIMEOUT: Duration = Duration::from_secs(15);
/// An agent must open a tunnel it was asked for within this time.
pub const TUNNEL_OPEN_TIMEOUT: Duration = Duration::from_secs(10);
/// One message on the agent link.
pub const LINK_MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Life of an agent's certificate; renewed at half of it.
pub const CERTIFICATE_LIFE: Duration = Duration::from_secs(86_400);
/// A certificate expired by no more than this may still be renewed.
pub const CERTIFICATE_GRACE: Duration = Duration::from_secs(90 * 86_400);
/// Life of a join token.
pub const JOIN_TOKEN_LIFE: Duration = Duration::from_secs(3600);

/// Attempts of a task before it becomes a dead letter.
pub const TASK_ATTEMPTS_MAX: u32 = 3;
/// Tasks waiting at once in one tenant.
pub const TASKS_PENDING_MAX: usize = 10_000;
/// A task that is not done by then fails with a deadline problem.
pub const TASK_DEADLINE: Duration = Duration::from_secs(3600);
/// A low task gains one priority step for each such wait, so that nothing starves.
pub const TASK_AGEING: Duration = Duration::from_secs(60);
/// Finished tasks, executions and deleted guests are kept this long.
pub const HISTORY: Duration = Duration::from_secs(30 * 86_400);
/// Rows of one noun kept in the view.
pub const VIEW_ROWS_MAX: usize = 100_000;

/// Body of one API request: the longest user-data as JSON fits.
pub const BODY_BYTES_MAX: usize = 4 << 20;
/// Objects on one page.
pub const PAGE_MAX: usize = 1000;
/// Objects on one page when none is asked for.
pub const PAGE_DEFAULT: usize = 100;
/// Longest `Prefer: wait`.
pub const WAIT_MAX: Duration = Duration::from_secs(600);
/// Longest `Idempotency-Key`.
pub const IDEMPOTENCY_KEY_CHARS_MAX: usize = 128;
/// An idempotency key is remembered this long.
pub const IDEMPOTENCY_KEPT: Duration = Duration::from_secs(86_400);
/// One file sent into or out of a guest.
pub const FILE_BYTES_MAX: u64 = 1 << 30;
/// One image's disk on its way in.
pub const IMAGE_BYTES_MAX: u64 = 256 << 30;
/// Images that are imported at once; the others wait.
pub const IMPORTS_MAX: usize = 2;
/// Uploads that are under way or were left.
pub const UPLOADS_MAX: usize = 64;
/// An upload that nobody goes on with is removed after this long.
pub const UPLOAD_KEPT: Duration = Duration::from_secs(86_400);
/// A shutdown drains requests for at most this long.
pub const DRAIN: Duration = Duration::from_secs(30);

/// Longest name of a metric or a label.
pub const METRIC_NAME_BYTES_MAX: usize = 200;
/// Labels of one series.
pub const LABELS_PER_SERIES_MAX: usize = 32;
/// Longest value of a label.
pub const LABEL_VALUE_BYTES_MAX: usize = 1024;
/// Series of one stream of one host.
pub const SERIES_PER_STREAM_MAX: usize = 20_000;
/// One frame, encoded.
pub const FRAME_BYTES_MAX: usize = 2 << 20;

/// Life of an ingest token when none is asked for.
pub const INGEST_TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// Longest life of an ingest token; it is renewed within it.
pub const INGEST_TOKEN_LIFE_MAX: Duration = Duration::from_secs(86_400);
/// What a host reports over HTTP is refused as stale when it is older.
pub const INGEST_AGE_MAX: Duration = Duration::from_secs(300);
/// What a host reports over HTTP may be ahead of our clock by so much.
pub const INGEST_AHEAD_MAX: Duration = Duration::from_secs(30);
/// Reports over HTTP that one host may make each second, over time.
pub const INGEST_PER_SECOND: u32 = 10;
/// Reports over HTTP that one host may make at once after a rest.
pub const INGEST_BURST: u32 = 50;
/// Series in one batch of measurements over HTTP.
pub const INGEST_SERIES_MAX: usize = 5000;
/// Events in one report over HTTP.
pub const INGEST_EVENTS_MAX: usize = 100;
/// Highest sequence id: what every JSON reader holds exactly.
pub const SEQUENCE_MAX: u64 = 1 << 53;
