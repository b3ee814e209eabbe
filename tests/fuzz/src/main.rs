//! Runs a target on stable Rust: `drive TARGET [--executions N] [--seconds S] [--seed N]`, or
//! `drive TARGET FILE...` to run files again. `drive --list` names the targets, and `drive TARGET
//! --write-seeds FOLDER` writes all seeds of one for libFuzzer.
//!
//! Mutations of the seeds, by chance that the seed fixes, without a look at what code they reach: less
//! than libFuzzer does, and it runs anywhere. What breaks an invariant is written to a file.

use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use fuzz::mutate::{Dice, mutated};
use fuzz::{TARGETS, Target, corpus, find};

/// The folder of the tests.
fn tests() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("below the tests")
}

struct Plan {
    executions: u64,
    seconds: u64,
    seed: u64,
    seeds: Option<PathBuf>,
    files: Vec<PathBuf>,
}

fn plan(mut args: impl Iterator<Item = String>) -> Result<Plan, String> {
    let (executions, seconds, seed) = (u64::MAX, 60, 1);
    let mut plan = Plan { executions, seconds, seed, seeds: None, files: Vec::new() };
    while let Some(arg) = args.next() {
        let number = |text: Option<String>| {
            text.and_then(|text| text.parse().ok()).ok_or(format!("{arg} needs a number"))
        };
        match arg.as_str() {
            "--executions" => plan.executions = number(args.next())?,
            "--seconds" => plan.seconds = number(args.next())?,
            "--seed" => plan.seed = number(args.next())?,
            "--write-seeds" => plan.seeds = args.next().map(PathBuf::from),
            _ if arg.starts_with('-') => return Err(format!("{arg} is no option")),
            _ => plan.files.push(arg.into()),
        }
    }
    Ok(plan)
}

/// Whether the body takes the input.
fn holds(target: &Target, data: &[u8]) -> bool {
    panic::catch_unwind(AssertUnwindSafe(|| (target.body)(data))).is_ok()
}

fn again(target: &Target, files: &[PathBuf]) -> bool {
    files.iter().all(|file| {
        let data = std::fs::read(file).unwrap_or_else(|it| panic!("{}: {it}", file.display()));
        let held = holds(target, &data);
        println!("{}: {}", file.display(), if held { "holds" } else { "BROKEN" });
        held
    })
}

/// Writes each seed to a file of its own.
fn write_seeds(target: &Target, folder: &Path) -> bool {
    let write = |(place, seed)| std::fs::write(folder.join(format!("seed-{place}")), seed).is_ok();
    corpus::seeds(tests(), target).into_iter().enumerate().all(write)
}

/// Runs until the plan is through or an invariant is broken.
fn run(target: &Target, plan: &Plan) -> bool {
    let seeds = corpus::seeds(tests(), target);
    let mut dice = Dice::new(plan.seed);
    let (begin, time) = (Instant::now(), Duration::from_secs(plan.seconds));
    let mut count = 0;
    let mut held = true;
    for seed in &seeds {
        held = held && tried(target, seed);
        count += 1;
    }
    while held && count < plan.executions && (count % 256 != 0 || begin.elapsed() < time) {
        held = tried(target, &mutated(&seeds, target.words, &mut dice));
        count += 1;
    }
    let seconds = begin.elapsed().as_secs_f64();
    println!("{}: {count} executions in {seconds:.1} s from {} seeds", target.name, seeds.len());
    held
}

/// Whether it holds; an input that breaks something is kept.
fn tried(target: &Target, data: &[u8]) -> bool {
    let held = holds(target, data);
    if !held {
        let file =
            std::env::temp_dir().join(format!("fuzz-{}-{}", target.name, Dice::of(data).next()));
        let written = std::fs::write(&file, data);
        println!("BROKEN by {} ({:?})", file.display(), written.is_ok());
    }
    held
}

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let name = args.next().unwrap_or_default();
    if name == "--list" {
        TARGETS.iter().for_each(|target| println!("{}", target.name));
        return ExitCode::SUCCESS;
    }
    let (Some(target), Ok(plan)) = (find(&name), plan(args)) else {
        eprintln!("drive TARGET [--executions N] [--seconds S] [--seed N] [FILE...], or --list");
        return ExitCode::from(2);
    };
    let held = match (&plan.seeds, plan.files.is_empty()) {
        (Some(folder), _) => write_seeds(target, folder),
        (None, true) => run(target, &plan),
        (None, false) => again(target, &plan.files),
    };
    if held { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
