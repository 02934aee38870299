-- Disks of VMs, kept away from them.
CREATE TABLE backups (
    id              TEXT PRIMARY KEY NOT NULL,
    tenant          TEXT NOT NULL,
    owner           TEXT NOT NULL,
    name            TEXT NOT NULL,
    guest_id        TEXT NOT NULL,
    guest_name      TEXT NOT NULL,
    state           TEXT NOT NULL,
    sealed          INTEGER NOT NULL,
    scheduled       INTEGER NOT NULL,
    since_id        TEXT,
    disk_bytes      INTEGER,
    taken_at        INTEGER,
    verified_at     INTEGER,
    created_at      INTEGER NOT NULL,
    revision        INTEGER NOT NULL,
    doc             TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX backups_name ON backups (tenant, name);
CREATE INDEX backups_guest ON backups (guest_id);
