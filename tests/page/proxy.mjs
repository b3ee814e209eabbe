// The program under test, with a configuration file of its own.
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** Starts the program in front of upstreams (name and URL), and waits until it listens. */
export async function startProxy(binary, upstreams, more = "", environment = {}) {
  const folder = mkdtempSync(join(tmpdir(), "status-page-"));
  const tables = upstreams.map(([name, url]) => `[[upstream]]\nname = "${name}"\nbase_url = "${url}"\n`);
  writeFileSync(join(folder, "config.toml"), tables.join("\n") + more, { mode: 0o600 });
  const env = { PROXY_CONFIG: join(folder, "config.toml"), OLLAMA_HOST: "127.0.0.1:0", PROXY_STATE: join(folder, "state.json"),
    RETRY_MAX: "0", MAX_CONNECTIONS: "100", SHUTDOWN_GRACE: "1", ...environment };
  // It ends with this program, even if that crashes.
  const child = spawn("setpriv", ["--pdeathsig", "TERM", binary], { cwd: folder, env, stdio: ["ignore", "ignore", "pipe"] });
  let log = "";
  const url = await new Promise((resolve, reject) => {
    child.stderr.on("data", (piece) => {
      log += piece;
      const found = /listening on (127\.0\.0\.1:\d+)/.exec(log);
      if (found) resolve("http://" + found[1]);
    });
    child.on("exit", (code) => reject(new Error(`the proxy ended with ${code}: ${log}`)));
  });
  const ended = new Promise((resolve) => child.on("exit", resolve));
  return {
    url,
    log: () => log,
    signal: (name) => child.kill(name),
    async stop() {
      child.kill("SIGCONT");
      child.kill("SIGTERM");
      await ended;
      rmSync(folder, { recursive: true });
    },
  };
}
