import { expect, test } from "vitest";
import { emptyCreation, requestOf } from "./creation";

/** As it is sent: what is undefined is not there. */
const sent = (form: Parameters<typeof requestOf>[0]) => JSON.parse(JSON.stringify(requestOf(form))) as unknown;

test("what is left empty is not sent", () => {
  const usual = { image: "base", cpus: 1, memory_bytes: 1 << 30, firmware: "bios", restart: "on_failure" };
  expect(sent(emptyCreation("base"))).toEqual(usual);
  expect(sent({ ...emptyCreation("base"), name: " ", sshKeys: "\n \n", userData: "\n" })).toEqual(usual);
});

test("sizes are bytes, keys are lines, user-data is sent as it was typed", () => {
  const form = { ...emptyCreation("debian"), name: "db", memoryMib: "2048", cpus: "2", diskGib: "20", network: "default", host: "hv-1", sshKeys: "ssh-ed25519 AAAA me\n\n ssh-ed25519 BBBB you\n", userData: "#cloud-config\n", firmware: "uefi", tpm: true, restart: "always", description: "Shop" };
  expect(sent(form)).toEqual({
    name: "db", image: "debian", cpus: 2, memory_bytes: 2 ** 31, disk_bytes: 20 * 2 ** 30, network: "default", host: "hv-1", description: "Shop",
    ssh_keys: ["ssh-ed25519 AAAA me", "ssh-ed25519 BBBB you"], user_data: "#cloud-config\n", firmware: "uefi", tpm: true, restart: "always",
  });
});
