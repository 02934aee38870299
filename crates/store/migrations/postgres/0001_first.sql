-- The first schema. migrations/sqlite/0001_first.sql is its twin: same tables, same columns.
-- Times are microseconds since 1970. `doc` is the truth of a row, the other columns are there to
-- be queried; see src/sql/rows.rs. Text that is compared is ordered by bytes, as SQLite does.
-- No foreign keys: the laws between nouns are in `control`, and the in-memory twin has none either.

CREATE TABLE schema_version (
    version BIGINT PRIMARY KEY
);

CREATE TABLE hosts (
    id               TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    name             TEXT COLLATE "C" NOT NULL,
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
    cpus             BIGINT,
    memory_bytes     BIGINT,
    disk_bytes       BIGINT,
    disk_free_bytes  BIGINT,
    revoked          BOOLEAN NOT NULL,
    drained          BOOLEAN NOT NULL,
    run_id           TEXT,
    created_at       BIGINT NOT NULL,
    seen_at          BIGINT,
    updated_at       BIGINT NOT NULL,
    revision         BIGINT NOT NULL,
    doc              TEXT NOT NULL
);
CREATE UNIQUE INDEX hosts_name ON hosts (name);

CREATE TABLE guests (
    id                   TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant               TEXT COLLATE "C" NOT NULL,
    owner                TEXT NOT NULL,
    name                 TEXT COLLATE "C" NOT NULL,
    kind                 TEXT NOT NULL,
    labels               TEXT NOT NULL,
    host_id              TEXT,
    image_id             TEXT NOT NULL,
    image_name           TEXT NOT NULL,
    cpus                 BIGINT NOT NULL,
    memory_bytes         BIGINT NOT NULL,
    power                TEXT NOT NULL,
    generation           BIGINT NOT NULL,
    expires_at           BIGINT,
    phase                TEXT,
    phase_since          BIGINT,
    observed_generation  BIGINT,
    observed_sequence    BIGINT,
    problem_code         TEXT,
    kernel_release       TEXT,
    boot_ms              BIGINT,
    created_at           BIGINT NOT NULL,
    updated_at           BIGINT NOT NULL,
    gone_at              BIGINT,
    revision             BIGINT NOT NULL,
    doc                  TEXT NOT NULL
);
CREATE UNIQUE INDEX guests_name ON guests (tenant, name) WHERE gone_at IS NULL;
CREATE INDEX guests_host ON guests (host_id) WHERE gone_at IS NULL;

CREATE TABLE images (
    id              TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant          TEXT COLLATE "C" NOT NULL,
    owner           TEXT NOT NULL,
    name            TEXT COLLATE "C" NOT NULL,
    arch            TEXT NOT NULL,
    kernel_release  TEXT,
    state           TEXT NOT NULL,
    bytes           BIGINT NOT NULL,
    created_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    doc             TEXT NOT NULL
);
CREATE UNIQUE INDEX images_name ON images (tenant, name);

CREATE TABLE tasks (
    id                TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant            TEXT COLLATE "C" NOT NULL,
    owner             TEXT NOT NULL,
    kind              TEXT NOT NULL,
    guest_id          TEXT,
    image_id          TEXT,
    execution_id      TEXT,
    priority          TEXT NOT NULL,
    state             TEXT NOT NULL,
    attempts          BIGINT NOT NULL,
    attempts_max      BIGINT NOT NULL,
    worker            TEXT,
    host_id           TEXT,
    epoch             BIGINT NOT NULL,
    generation        BIGINT,
    cancel_asked      BOOLEAN NOT NULL,
    note              TEXT,
    progress_percent  BIGINT,
    problem_code      TEXT,
    problem_text      TEXT,
    created_at        BIGINT NOT NULL,
    scheduled_at      BIGINT NOT NULL,
    started_at        BIGINT,
    completed_at      BIGINT,
    revision          BIGINT NOT NULL,
    doc               TEXT NOT NULL
);
CREATE INDEX tasks_open ON tasks (state, scheduled_at) WHERE completed_at IS NULL;

-- stdout and stderr hold the first bytes of a stream, the _tail columns its last.
CREATE TABLE executions (
    id            TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant        TEXT COLLATE "C" NOT NULL,
    owner         TEXT NOT NULL,
    guest_id      TEXT NOT NULL,
    task_id       TEXT,
    command       TEXT NOT NULL,
    args          TEXT NOT NULL,
    env           TEXT NOT NULL,
    state         TEXT NOT NULL,
    outcome       TEXT,
    exit_code     BIGINT,
    stdout        BYTEA NOT NULL,
    stdout_tail   BYTEA NOT NULL,
    stdout_bytes  BIGINT NOT NULL,
    stderr        BYTEA NOT NULL,
    stderr_tail   BYTEA NOT NULL,
    stderr_bytes  BIGINT NOT NULL,
    problem_code  TEXT,
    created_at    BIGINT NOT NULL,
    started_at    BIGINT,
    completed_at  BIGINT,
    duration_ms   BIGINT,
    revision      BIGINT NOT NULL,
    doc           TEXT NOT NULL
);
CREATE INDEX executions_guest ON executions (guest_id, id);

CREATE TABLE keys (
    id          TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant      TEXT COLLATE "C" NOT NULL,
    name        TEXT COLLATE "C" NOT NULL,
    role        TEXT,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT,
    revision    BIGINT NOT NULL,
    doc         TEXT NOT NULL
);

-- The writer holds an advisory lock, so numbers follow the order of commits.
CREATE TABLE events (
    seq         BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id          TEXT COLLATE "C" NOT NULL,
    at          BIGINT NOT NULL,
    tenant      TEXT COLLATE "C" NOT NULL,
    actor       TEXT NOT NULL,
    verb        TEXT NOT NULL,
    noun        TEXT NOT NULL,
    subject_id  TEXT NOT NULL,
    request_id  TEXT,
    doc         TEXT NOT NULL
);
CREATE INDEX events_at ON events (at);

CREATE TABLE idempotency (
    scope        TEXT COLLATE "C" NOT NULL,
    key          TEXT COLLATE "C" NOT NULL,
    fingerprint  TEXT NOT NULL,
    subject      TEXT NOT NULL,
    at           BIGINT NOT NULL,
    status       BIGINT,
    body         TEXT,
    PRIMARY KEY (scope, key)
);
CREATE INDEX idempotency_at ON idempotency (at);

-- One row for each start of a control plane; its number fences what older ones still do.
CREATE TABLE reigns (
    epoch   BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    holder  TEXT NOT NULL UNIQUE,
    at      BIGINT NOT NULL
);
