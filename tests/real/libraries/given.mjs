// What a library gets: the address, the model and the prompt from the environment, and three tools.
import { execSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

export const { PROXY, MODEL, PROMPT } = process.env;
export const KEY = "ollama";
export const SYSTEM = "You are a coding agent.";
export const WIRE = process.argv[2]; // Which of the library's clients is meant.

// Each tool: its name, what it says of itself, the names of its arguments, and what it does.
export const TOOLS = [
  {
    name: "write_file",
    description: "Write a file.",
    members: ["path", "content"],
    run: ({ path, content }) => {
      writeFileSync(path, content);
      return "written";
    },
  },
  {
    name: "edit_file",
    description: "Replace a text in a file.",
    members: ["path", "old", "new"],
    run: (given) => {
      writeFileSync(given.path, readFileSync(given.path, "utf8").replace(given.old, given.new));
      return "edited";
    },
  },
  {
    name: "bash",
    description: "Run a shell command.",
    members: ["command"],
    run: ({ command }) => execSync(command, { encoding: "utf8" }),
  },
];
