// Packs what was built as browsers like it, so that the server need not: each file also as .br and .gz.
// What must come before anything is seen, and what comes when it is asked for, have budgets.
import { readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const FIRST_GZ_BYTES_MAX = 90 * 1024;
const LATER_GZ_BYTES_MAX = 120 * 1024;
const packed = new Map();

function pack(folder) {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (statSync(path).isDirectory()) pack(path);
    else if (/\.(js|css|html|svg|webmanifest)$/.test(name)) {
      const bytes = readFileSync(path);
      const gz = gzipSync(bytes, { level: 9 });
      writeFileSync(path + ".gz", gz);
      writeFileSync(path + ".br", brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }));
      packed.set(path, gz.length);
    }
  }
}

/** A chunk, and what it cannot begin without. */
function whole(chunks, key, found = new Set()) {
  if (found.has(key)) return found;
  found.add(key);
  for (const other of chunks[key].imports ?? []) whole(chunks, other, found);
  return found;
}

function judge(what, keys, chunks, most) {
  const size = [...keys].reduce((sum, key) => sum + (packed.get(join("dist", chunks[key].file)) ?? 0), 0);
  console.log(`${what}: ${(size / 1024).toFixed(1)} KiB of scripts packed, ${most / 1024} KiB may be`);
  return size <= most;
}

const MANIFEST = "dist/manifest.json";
const chunks = JSON.parse(readFileSync(MANIFEST, "utf8"));
rmSync(MANIFEST);
pack("dist");
const first = whole(chunks, "index.html");
const later = Object.keys(chunks).filter((key) => chunks[key].isDynamicEntry);
const good = [
  judge("at first", first, chunks, FIRST_GZ_BYTES_MAX),
  ...later.map((key) => judge(`with ${key}`, [...whole(chunks, key)].filter((one) => !first.has(one)), chunks, LATER_GZ_BYTES_MAX)),
];
if (good.includes(false)) process.exit(1);
