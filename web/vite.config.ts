import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vitest/config";
import { CHANGED, withinPolicy } from "./policy";

// A control plane to develop against: PERIGEE_URL=http://127.0.0.1:8080 npm run dev
const server = process.env.PERIGEE_URL ?? "http://127.0.0.1:8080";
const proxied = { target: server, changeOrigin: true, ws: true, headers: { origin: server } };

export default defineConfig({
  plugins: [svelte(), withinPolicy()],
  optimizeDeps: { exclude: CHANGED },
  build: { target: "es2022", assetsInlineLimit: 0, modulePreload: { polyfill: false }, manifest: "manifest.json" },
  server: { proxy: { "/api": proxied, "/health": proxied, "/errors": proxied } },
  test: { include: ["src/**/*.test.ts"] },
});
