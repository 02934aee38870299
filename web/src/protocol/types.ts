// What `/api/v1` answers with; the published contract is /api/v1/openapi.json.

export interface Page<T> {
  items: T[];
  next_page_token?: string;
}

export interface Load {
  measured_at: string;
  cpu_usage_ratio?: number;
  memory_used_bytes?: number;
  memory_total_bytes?: number;
  load1?: number;
  frames_lost: number;
}

export interface Driver {
  driver: string;
  version: string;
  acceleration: string;
}

export interface Inventory {
  hostname: string;
  arch: string;
  kernel_release: string;
  os: string;
  cpus: number;
  cpu_model: string;
  memory_bytes: number;
  disk_bytes: number;
  disk_free_bytes: number;
  agent_version: string;
  privileges: string;
  drivers: Driver[];
}

export interface Host {
  id: string;
  name: string;
  status: "connected" | "reporting" | "disconnected" | "revoked";
  status_since?: string;
  heard_at?: string;
  labels: Record<string, string>;
  guests: number;
  memory_taken_bytes: number;
  created_at: string;
  load?: Load;
  inventory?: Inventory;
}

export interface Guest {
  id: string;
  name: string;
  /** `sandbox` or `vm`. */
  kind: string;
  owner: string;
  /** `pending`, `waiting`, `starting`, `running`, `suspended`, `stopping`, `stopped`, `failed`, `deleting`, `unknown`. */
  status: string;
  note?: string;
  problem?: { code: string; detail: string };
  image: string;
  cpus: number;
  memory_bytes: number;
  host?: string;
  host_id?: string;
  labels: Record<string, string>;
  created_at: string;
  expires_at?: string;
  kernel_release?: string;
  // Sandboxes with a card have these.
  address?: string;
  /** `none`, `all`, or places. */
  egress?: string[];
  egress6?: string[];
  address6?: string;
  forwards?: Forward[];
  // Full VMs have some of these.
  description?: string;
  disk_bytes?: number;
  network?: string;
  mac?: string;
  firmware?: string;
  /** `always`, `on_failure`, `never`. */
  restart?: string;
  start_order?: number;
  addresses?: string[];
  restart_needed?: boolean;
  adopted?: boolean;
  backups?: BackupSchedule;
  metadata?: Record<string, string>;
}

/** When a VM is backed up by itself. */
export interface BackupSchedule {
  every_ms: number;
  keep: number;
  encrypted: boolean;
  next_at: string;
}

/** A port of a sandbox's host that leads to it. */
export interface Forward {
  protocol: string;
  host_port: number;
  guest_port: number;
  /** It leads there now. */
  up: boolean;
}

/** A VM that is asked for; what is undefined is as the control plane likes. */
export interface GuestRequest {
  name: string | undefined;
  image: string;
  cpus: number;
  memory_bytes: number;
  disk_bytes: number | undefined;
  network: string | undefined;
  host: string | undefined;
  description: string | undefined;
  ssh_keys: string[] | undefined;
  user_data: string | undefined;
  firmware: string;
  tpm: boolean | undefined;
  restart: string;
}

export interface Image {
  id: string;
  name: string;
}

/** A merge patch: what is not there stays; labels given as `null` are removed. */
export interface GuestPatch {
  name?: string;
  description?: string;
  labels?: Record<string, string | null>;
  cpus?: number;
  memory_bytes?: number;
  restart?: string;
  start_order?: number;
}

export interface ForeignVm {
  id: string;
  name: string;
  status: string;
  busy: boolean;
  host: string;
  host_id: string;
  driver: string;
  cpus?: number;
  memory_bytes?: number;
  resident_bytes?: number;
  cpu_cores?: number;
  measured_at: string;
}

export interface Task {
  id: string;
  kind: string;
  state: "pending" | "running" | "succeeded" | "failed" | "cancelled" | "dead";
  owner: string;
  sandbox_id?: string;
  image_id?: string;
  note?: string;
  progress_percent?: number;
  created_at: string;
  completed_at?: string;
  problem?: { code: string; detail: string };
}

/** One thing somebody did. `verb` is `guest.create`, `task.cancel`, … */
export interface AuditEvent {
  seq: number;
  id: string;
  at: string;
  actor: string;
  verb: string;
  noun: string;
  subject_id: string;
  detail: string;
}

export interface Problem {
  code: string;
  title: string;
  detail: string;
  status: number;
  request_id: string;
  errors?: { pointer: string; detail: string }[];
}

/** Seconds since 1970 and a number as text. */
export type Point = [number, string];

export interface RangeSeries {
  metric: Record<string, string>;
  values: Point[];
}

export interface InstantSeries {
  metric: Record<string, string>;
  value: Point;
}

export interface LiveSeries {
  name: string;
  labels: Record<string, string>;
  kind: string;
}

export interface LiveStream {
  host: string;
  stream: string;
  at: number;
  series: LiveSeries[];
  values: (number | null)[];
}

export interface LiveSnapshot {
  type: "snapshot";
  sequence: number;
  streams: LiveStream[];
}

export interface LiveFrame {
  type: "frame";
  sequence: number;
  host: string;
  stream: string;
  at: number;
  reset: boolean;
  added: LiveSeries[];
  columns: number[];
  values: (number | null)[];
}

export type LiveMessage = LiveSnapshot | LiveFrame;
