// Looks at the status page of the real program in Chromium.
//
// Usage: page.mjs --proxy BINARY --npm FOLDER [--chromium PROGRAM] [--screenshots]
//
// --npm          folder with the packages of package.json installed
// --screenshots  also writes the pictures for the README, from fixed data
//
// As root it runs in a network namespace with loopback only, so that Chromium can reach nothing else. A test
// fails if the console shows an error or a warning, if the Content-Security-Policy stops something, or if
// anything but the proxy is asked.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { openBrowser } from "./browser.mjs";
import { TESTS } from "./tests.mjs";
import { CHANGES } from "./changes.mjs";
import { takePictures } from "./pictures.mjs";

const { values: options } = parseArgs({ options: {
  proxy: { type: "string" }, npm: { type: "string" }, chromium: { type: "string", default: "chromium" },
  screenshots: { type: "boolean" }, only: { type: "string", default: "" }, alone: { type: "boolean" },
} });
if (!options.proxy || !options.npm) {
  console.error("Usage: page.mjs --proxy BINARY --npm FOLDER [--chromium PROGRAM] [--screenshots] [--only TEXT]");
  process.exit(2);
}
if (process.getuid() === 0 && !options.alone) {
  const again = [process.execPath, fileURLToPath(import.meta.url), "--alone", ...process.argv.slice(2)];
  const inside = ["-n", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", ...again];
  process.exit(spawnSync("unshare", inside, { stdio: "inherit" }).status ?? 1);
}

const browser = await openBrowser(options);
let passed = 0, failed = 0;
for (const [name, test] of Object.entries({ ...TESTS, ...CHANGES }).filter(([name]) => name.includes(options.only))) {
  const cleanups = [];
  try {
    await test({ browser, binary: options.proxy, later: (cleanup) => cleanups.unshift(cleanup) });
    passed += 1;
    console.log(`PASS ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAIL ${name}: ${error.stack}`);
  }
  for (const cleanup of cleanups) await cleanup();
}
if (options.screenshots) await takePictures(browser, options.proxy);
await browser.close();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
