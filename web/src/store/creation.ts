// The form in which a VM is made: text in, a request out. What is left empty is as the control plane likes.

import type { GuestRequest } from "../protocol/types";

const MIB = 1 << 20;
const GIB = 1024 * MIB;

export interface Creation {
  name: string;
  image: string;
  cpus: string;
  memoryMib: string;
  diskGib: string;
  network: string;
  host: string;
  description: string;
  /** One a line. */
  sshKeys: string;
  userData: string;
  firmware: string;
  tpm: boolean;
  restart: string;
}

export function emptyCreation(image: string): Creation {
  return { name: "", image, cpus: "1", memoryMib: "1024", diskGib: "", network: "", host: "", description: "", sshKeys: "", userData: "", firmware: "bios", tpm: false, restart: "on_failure" };
}

/** What is asked for. The control plane judges the values. */
export function requestOf(form: Creation): GuestRequest {
  const text = (value: string) => value.trim() || undefined;
  const keys = form.sshKeys.split("\n").map((line) => line.trim()).filter(Boolean);
  const request: GuestRequest = {
    name: text(form.name),
    image: form.image,
    cpus: Number(form.cpus),
    memory_bytes: Number(form.memoryMib) * MIB,
    disk_bytes: text(form.diskGib) === undefined ? undefined : Number(form.diskGib) * GIB,
    network: text(form.network),
    host: text(form.host),
    description: text(form.description),
    ssh_keys: keys.length > 0 ? keys : undefined,
    user_data: text(form.userData) === undefined ? undefined : form.userData,
    firmware: form.firmware,
    tpm: form.tpm || undefined,
    restart: form.restart,
  };
  return request;
}
