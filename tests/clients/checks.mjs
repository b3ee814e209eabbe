// The test runner of the JavaScript client tests.
//
// A check passes unless it throws; `run` runs them in order, prints one line for each and a last
// line `N passed, N failed`, and ends the process.
import assert from "node:assert/strict";

const HANG_MS = 60_000; // Only ends a check that hangs.
// The upstream lacks /v1/responses; its one refusal is how the proxy detects that.
const WANTED =
  /on purpose|Rate limit|had an error|does not exist|API key|gave up|Invalid URL \(POST \/v1\/responses\)/;
const checks = [];
const refusals = [];

// An environment variable that must be set.
export function setting(name) {
  const value = process.env[name];
  if (!value) {
    console.error(`${name} is not set; tests/clients/run.py sets it`);
    process.exit(1);
  }
  return value;
}

const UPSTREAM = setting("UPSTREAM_URL");

export function check(name, run) {
  checks.push({ name, run });
}

// The requests that the scripted upstream has seen since `forget`.
export async function journal(method = "GET") {
  const answer = await fetch(`${UPSTREAM}/_requests`, { method });
  return answer.json();
}

export async function forget() {
  for (const entry of await journal()) if (entry.refusal) refusals.push(entry.refusal);
  await journal("DELETE");
}

// Asserts that no request was refused except where a check expects it.
export async function checkRules() {
  await forget();
  assert.deepEqual(refusals.filter((text) => !WANTED.test(text)), []);
}

// Unlike assert.rejects, returns the error.
export async function failure(promise) {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  throw new Error("nothing was thrown");
}

async function runOne({ name, run }) {
  let timer;
  const hang = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error("it hangs")), HANG_MS);
  });
  try {
    await Promise.race([run(), hang]);
    console.log(`PASS ${name}`);
    return true;
  } catch (error) {
    const where = /test_\w+\.mjs:\d+/.exec(error.stack ?? "")?.[0] ?? "";
    const text = String(error.message).replace(/\s+/g, " ").slice(0, 300);
    console.log(`FAIL ${name}: ${text} (${where})`);
    return false;
  } finally {
    clearTimeout(timer);
  }
}

export async function run() {
  await journal("DELETE");
  let passed = 0;
  for (const one of checks) if (await runOne(one)) passed += 1;
  console.log(`${passed} passed, ${checks.length - passed} failed`);
  process.exit(passed === checks.length ? 0 : 1);
}
