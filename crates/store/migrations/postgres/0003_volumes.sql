-- Volumes. migrations/sqlite/0003_volumes.sql is its twin.

ALTER TABLE tasks ADD COLUMN volume_id TEXT COLLATE "C";

CREATE TABLE volumes (
    id            TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant        TEXT COLLATE "C" NOT NULL,
    owner         TEXT NOT NULL,
    name          TEXT COLLATE "C" NOT NULL,
    labels        TEXT NOT NULL,
    host_id       TEXT COLLATE "C" NOT NULL,
    guest_id      TEXT COLLATE "C",
    bytes         BIGINT NOT NULL,
    stored_bytes  BIGINT,
    generation    BIGINT NOT NULL,
    created_at    BIGINT NOT NULL,
    revision      BIGINT NOT NULL,
    doc           TEXT NOT NULL
);
CREATE UNIQUE INDEX volumes_name ON volumes (tenant, name);
CREATE INDEX volumes_host ON volumes (host_id);
