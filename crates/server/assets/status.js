"use strict";
// The status page: reads the API every two seconds with the reader's token. Text only ever becomes
// text nodes, so nothing a guest is called can become markup.
const good = new Set(["connected", "running", "ready", "succeeded", "yes"]);
const bad = new Set(["failed", "dead", "disconnected", "no", "lost"]);
const form = document.getElementById("sign-in");
const sheet = document.getElementById("sheet");
const live = document.getElementById("live");
let token = sessionStorage.getItem("perigee-token") ?? "";
let timer = 0;

const mib = (bytes) => `${Math.round(bytes / 1048576).toLocaleString("en")} MiB`;
const age = (iso) => {
  const s = Math.max(0, (Date.now() - Date.parse(iso)) / 1000);
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return s < 129600 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} d`;
};

async function read(path) {
  const answer = await fetch(path, { headers: { authorization: `Bearer ${token}` } });
  if (answer.status === 401) throw new Error("the token is not valid");
  if (!answer.ok && answer.status !== 503) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

function table(id, columns, rows) {
  const root = document.getElementById(id);
  const cell = (kind, text, numeric) => {
    const node = document.createElement(kind);
    node.textContent = text;
    if (numeric) node.className = "number";
    return node;
  };
  const line = (cells) => {
    const row = document.createElement("tr");
    row.append(...cells);
    return row;
  };
  const lines = [line(columns.map((c) => cell("th", c.name, c.numeric)))];
  for (const item of rows) {
    lines.push(line(columns.map((c) => {
      const text = c.of(item) ?? "–";
      const node = cell("td", text, c.numeric);
      if (c.state) node.className = good.has(text) ? "good" : bad.has(text) ? "bad" : "idle";
      return node;
    })));
  }
  if (rows.length === 0) {
    const none = cell("td", "none");
    none.className = "empty";
    lines.push(line([none]));
  }
  root.replaceChildren(...lines);
}

async function show() {
  try {
    const [ready, hosts, sandboxes, images, tasks] = await Promise.all([
      read("/health/ready"), read("/api/v1/hosts"), read("/api/v1/sandboxes"),
      read("/api/v1/images"), read("/api/v1/tasks?limit=20"),
    ]);
    table("ready", [
      { name: "part", of: (p) => p.name },
      { name: "ready", of: (p) => (p.ready ? "yes" : "no"), state: true },
      { name: "finding", of: (p) => p.text },
    ], ready.parts);
    table("hosts", [
      { name: "name", of: (h) => h.name },
      { name: "status", of: (h) => h.status, state: true },
      { name: "guests", of: (h) => h.guests, numeric: true },
      { name: "CPUs", of: (h) => h.inventory?.cpus, numeric: true },
      { name: "memory", of: (h) => h.inventory && mib(h.inventory.memory_bytes), numeric: true },
      { name: "acceleration", of: (h) => h.inventory?.drivers.map((d) => d.acceleration).join(", ") },
    ], hosts.items);
    table("sandboxes", [
      { name: "name", of: (s) => s.name },
      { name: "status", of: (s) => s.status, state: true },
      { name: "host", of: (s) => s.host },
      { name: "memory", of: (s) => mib(s.memory_bytes), numeric: true },
      { name: "age", of: (s) => age(s.created_at), numeric: true },
      { name: "note", of: (s) => s.problem?.detail ?? s.note ?? "" },
    ], sandboxes.items);
    table("images", [
      { name: "name", of: (i) => i.name },
      { name: "state", of: (i) => i.state, state: true },
      { name: "size", of: (i) => mib(i.bytes), numeric: true },
      { name: "kernel", of: (i) => i.kernel_release },
    ], images.items);
    table("tasks", [
      { name: "kind", of: (t) => t.kind },
      { name: "state", of: (t) => t.state, state: true },
      { name: "age", of: (t) => age(t.created_at), numeric: true },
      { name: "note", of: (t) => t.problem?.detail ?? t.note ?? "" },
    ], tasks.items);
    sessionStorage.setItem("perigee-token", token);
    form.hidden = true;
    sheet.hidden = false;
    sheet.classList.remove("stale");
    live.textContent = `${ready.version}, instance ${ready.instance}, as of ${new Date().toLocaleTimeString()}`;
    timer = setTimeout(show, 2000);
  } catch (error) {
    sheet.classList.add("stale");
    live.textContent = `not current: ${error.message}`;
    if (error.message.startsWith("the token")) {
      sessionStorage.removeItem("perigee-token");
      form.hidden = false;
      sheet.hidden = true;
    } else {
      timer = setTimeout(show, 5000);
    }
  }
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  clearTimeout(timer);
  token = document.getElementById("token").value.trim();
  show();
});
if (token) show();
