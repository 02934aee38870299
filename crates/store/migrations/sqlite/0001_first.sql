-- The first schema. migrations/postgres/0001_first.sql is its twin: same tables, same columns.
-- Times are microseconds since 1970. `doc` is the truth of a row, the other columns are there to
-- be queried; see src/sql/rows.rs. No foreign keys: the laws between nouns are in `control`, and
-- the in-memory twin has none either.

CREATE TABLE schema_version (
    version INTEGER PRIMARY KEY
) STRICT;

CREATE TABLE hosts (
    id               TEXT PRIMARY KEY NOT NULL,
    name             TEXT NOT NULL,
    hostname         TEXT,
    type             TEXT,
    status           TEXT NOT NULL,
    capacity         TEXT,
    available        TEXT,
    labels           TEXT NOT NULL,
    arch             TEXT,
    os               TEXT,
    kernel_release   TEXT,
    agent_version    TEXT,
    cpus             INTEGER,
    memory_bytes     INTEGER,
    disk_bytes       INTEGER,
    disk_free_bytes  INTEGER,
    revoked          INTEGER NOT NULL,
    drained          INTEGER NOT NULL,
    run_id           TEXT,
    created_at       INTEGER NOT NULL,
    seen_at          INTEGER,
    updated_at       INTEGER NOT NULL,
    revision         INTEGER NOT NULL,
    doc              TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX hosts_name ON hosts (name);

CREATE TABLE guests (
    id                   TEXT PRIMARY KEY NOT NULL,
    tenant               TEXT NOT NULL,
    owner                TEXT NOT NULL,
    name                 TEXT NOT NULL,
    kind                 TEXT NOT NULL,
    labels               TEXT NOT NULL,
    host_id              TEXT,
    image_id             TEXT NOT NULL,
    image_name           TEXT NOT NULL,
    cpus                 INTEGER NOT NULL,
    memory_bytes         INTEGER NOT NULL,
    power                TEXT NOT NULL,
    generation           INTEGER NOT NULL,
    expires_at           INTEGER,
    phase                TEXT,
    phase_since          INTEGER,
    observed_generation  INTEGER,
    observed_sequence    INTEGER,
    problem_code         TEXT,
    kernel_release       TEXT,
    boot_ms              INTEGER,
    created_at           INTEGER NOT NULL,
    updated_at           INTEGER NOT NULL,
    gone_at              INTEGER,
    revision             INTEGER NOT NULL,
    doc                  TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX guests_name ON guests (tenant, name) WHERE gone_at IS NULL;
CREATE INDEX guests_host ON guests (host_id) WHERE gone_at IS NULL;

CREATE TABLE images (
    id              TEXT PRIMARY KEY NOT NULL,
    tenant          TEXT NOT NULL,
    owner           TEXT NOT NULL,
    name            TEXT NOT NULL,
    arch            TEXT NOT NULL,
    kernel_release  TEXT,
    state           TEXT NOT NULL,
    bytes           INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    revision        INTEGER NOT NULL,
    doc             TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX images_name ON images (tenant, name);

CREATE TABLE tasks (
    id                TEXT PRIMARY KEY NOT NULL,
    tenant            TEXT NOT NULL,
    owner             TEXT NOT NULL,
    kind              TEXT NOT NULL,
    guest_id          TEXT,
    image_id          TEXT,
    execution_id      TEXT,
    priority          TEXT NOT NULL,
    state             TEXT NOT NULL,
    attempts          INTEGER NOT NULL,
    attempts_max      INTEGER NOT NULL,
    worker            TEXT,
    host_id           TEXT,
    epoch             INTEGER NOT NULL,
    generation        INTEGER,
    cancel_asked      INTEGER NOT NULL,
    note              TEXT,
    progress_percent  INTEGER,
    problem_code      TEXT,
    problem_text      TEXT,
    created_at        INTEGER NOT NULL,
    scheduled_at      INTEGER NOT NULL,
    started_at        INTEGER,
    completed_at      INTEGER,
    revision          INTEGER NOT NULL,
    doc               TEXT NOT NULL
) STRICT;
CREATE INDEX tasks_open ON tasks (state, scheduled_at) WHERE completed_at IS NULL;

-- stdout and stderr hold the first bytes of a stream, the _tail columns its last.
CREATE TABLE executions (
    id            TEXT PRIMARY KEY NOT NULL,
    tenant        TEXT NOT NULL,
    owner         TEXT NOT NULL,
    guest_id      TEXT NOT NULL,
    task_id       TEXT,
    command       TEXT NOT NULL,
    args          TEXT NOT NULL,
    env           TEXT NOT NULL,
    state         TEXT NOT NULL,
    outcome       TEXT,
    exit_code     INTEGER,
    stdout        BLOB NOT NULL,
    stdout_tail   BLOB NOT NULL,
    stdout_bytes  INTEGER NOT NULL,
    stderr        BLOB NOT NULL,
    stderr_tail   BLOB NOT NULL,
    stderr_bytes  INTEGER NOT NULL,
    problem_code  TEXT,
    created_at    INTEGER NOT NULL,
    started_at    INTEGER,
    completed_at  INTEGER,
    duration_ms   INTEGER,
    revision      INTEGER NOT NULL,
    doc           TEXT NOT NULL
) STRICT;
CREATE INDEX executions_guest ON executions (guest_id, id);

CREATE TABLE keys (
    id          TEXT PRIMARY KEY NOT NULL,
    tenant      TEXT NOT NULL,
    name        TEXT NOT NULL,
    role        TEXT,
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER,
    revision    INTEGER NOT NULL,
    doc         TEXT NOT NULL
) STRICT;

-- AUTOINCREMENT: a number is never given twice, not even after the newest event is pruned.
CREATE TABLE events (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL,
    at          INTEGER NOT NULL,
    tenant      TEXT NOT NULL,
    actor       TEXT NOT NULL,
    verb        TEXT NOT NULL,
    noun        TEXT NOT NULL,
    subject_id  TEXT NOT NULL,
    request_id  TEXT,
    doc         TEXT NOT NULL
) STRICT;
CREATE INDEX events_at ON events (at);

CREATE TABLE idempotency (
    scope        TEXT NOT NULL,
    key          TEXT NOT NULL,
    fingerprint  TEXT NOT NULL,
    subject      TEXT NOT NULL,
    at           INTEGER NOT NULL,
    status       INTEGER,
    body         TEXT,
    PRIMARY KEY (scope, key)
) STRICT;
CREATE INDEX idempotency_at ON idempotency (at);

-- One row for each start of a control plane; its number fences what older ones still do.
CREATE TABLE reigns (
    epoch   INTEGER PRIMARY KEY AUTOINCREMENT,
    holder  TEXT NOT NULL UNIQUE,
    at      INTEGER NOT NULL
) STRICT;
