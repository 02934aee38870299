-- Volumes. migrations/postgres/0003_volumes.sql is its twin.

ALTER TABLE tasks ADD COLUMN volume_id TEXT;

CREATE TABLE volumes (
    id            TEXT PRIMARY KEY NOT NULL,
    tenant        TEXT NOT NULL,
    owner         TEXT NOT NULL,
    name          TEXT NOT NULL,
    labels        TEXT NOT NULL,
    host_id       TEXT NOT NULL,
    guest_id      TEXT,
    bytes         INTEGER NOT NULL,
    stored_bytes  INTEGER,
    generation    INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    revision      INTEGER NOT NULL,
    doc           TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX volumes_name ON volumes (tenant, name);
CREATE INDEX volumes_host ON volumes (host_id);
