import { defineConfig } from "vite";

export default defineConfig({
  base: "./", // the page works below any path
  build: { target: "es2022" },
  worker: { format: "es" },
  server: { fs: { allow: [".."] } }, // the example photos
});
