-- Networks of VMs. migrations/postgres/0004_networks.sql is its twin.

ALTER TABLE tasks ADD COLUMN network_id TEXT;

CREATE TABLE networks (
    id            TEXT PRIMARY KEY NOT NULL,
    tenant        TEXT NOT NULL,
    owner         TEXT NOT NULL,
    name          TEXT NOT NULL,
    description   TEXT NOT NULL,
    host_id       TEXT NOT NULL,
    kind          TEXT NOT NULL,
    subnet        TEXT,
    bridge        TEXT,
    generation    INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    revision      INTEGER NOT NULL,
    doc           TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX networks_name ON networks (tenant, name);
CREATE INDEX networks_host ON networks (host_id);
