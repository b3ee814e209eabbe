//! Micro-benchmarks of what every token and every request goes through: `cargo bench`, with
//! `-- NAME` for some of them. `inputs` generates their inputs.
//!
//! They call the library as the handlers do and open no socket. Each looks once at what comes out,
//! so that a benchmark of errors fails; `cargo test --bench micro` runs each a single time for that.

#![allow(missing_docs, reason = "divan makes public items of its own")]

mod answer;
mod decoder;
mod embeddings;
mod inputs;
mod request;
mod small;
mod tokens;

fn main() {
    divan::main();
}
