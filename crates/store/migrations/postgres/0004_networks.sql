-- Networks of VMs. migrations/sqlite/0004_networks.sql is its twin.

ALTER TABLE tasks ADD COLUMN network_id TEXT COLLATE "C";

CREATE TABLE networks (
    id            TEXT COLLATE "C" PRIMARY KEY NOT NULL,
    tenant        TEXT COLLATE "C" NOT NULL,
    owner         TEXT NOT NULL,
    name          TEXT COLLATE "C" NOT NULL,
    description   TEXT NOT NULL,
    host_id       TEXT COLLATE "C" NOT NULL,
    kind          TEXT NOT NULL,
    subnet        TEXT,
    bridge        TEXT,
    generation    BIGINT NOT NULL,
    created_at    BIGINT NOT NULL,
    revision      BIGINT NOT NULL,
    doc           TEXT NOT NULL
);
CREATE UNIQUE INDEX networks_name ON networks (tenant, name);
CREATE INDEX networks_host ON networks (host_id);
