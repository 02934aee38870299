// Packs what was built as browsers like it, so that the server need not: each file also as .br and .gz.
import { readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const JS_GZ_BYTES_MAX = 90 * 1024;
let scripts = 0;

function pack(folder) {
  for (const name of readdirSync(folder)) {
    const path = join(folder, name);
    if (statSync(path).isDirectory()) pack(path);
    else if (/\.(js|css|html|svg|webmanifest)$/.test(name)) {
      const bytes = readFileSync(path);
      const gz = gzipSync(bytes, { level: 9 });
      writeFileSync(path + ".gz", gz);
      writeFileSync(path + ".br", brotliCompressSync(bytes, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } }));
      if (name.endsWith(".js")) scripts += gz.length;
    }
  }
}

pack("dist");
console.log(`scripts: ${(scripts / 1024).toFixed(1)} KiB packed, ${JS_GZ_BYTES_MAX / 1024} KiB may be`);
if (scripts > JS_GZ_BYTES_MAX) process.exit(1);
