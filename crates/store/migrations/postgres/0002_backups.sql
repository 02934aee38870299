-- Disks of VMs, kept away from them.
CREATE TABLE backups (
    id              TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant          TEXT COLLATE "C" NOT NULL,
    owner           TEXT NOT NULL,
    name            TEXT COLLATE "C" NOT NULL,
    guest_id        TEXT COLLATE "C" NOT NULL,
    guest_name      TEXT NOT NULL,
    state           TEXT NOT NULL,
    sealed          BOOLEAN NOT NULL,
    scheduled       BOOLEAN NOT NULL,
    since_id        TEXT,
    disk_bytes      BIGINT,
    taken_at        BIGINT,
    verified_at     BIGINT,
    created_at      BIGINT NOT NULL,
    revision        BIGINT NOT NULL,
    doc             TEXT NOT NULL
);
CREATE UNIQUE INDEX backups_name ON backups (tenant, name);
CREATE INDEX backups_guest ON backups (guest_id);
