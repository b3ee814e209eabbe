//! The fuzz targets on stable Rust: the seeds of each, all their beginnings, and mutations of them by
//! a chance that is always the same. `scripts/fuzz` runs the same bodies for longer.

// This driver uses only a part of the crate.
#[allow(dead_code, clippy::unwrap_used)]
#[path = "../fuzz/src/lib.rs"]
mod bodies;

use std::collections::BTreeSet;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use bodies::mutate::{Dice, mutated};
use bodies::{TARGETS, Target, corpus, find};

/// Runs of each target with mutated inputs; all targets together take a few seconds.
const MUTATIONS: usize = 2_000;

/// Prefixes of each seed; of long seeds only some.
const BEGINNINGS: usize = 1_000;

fn tests() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests"))
}

/// Prints the input that breaks an invariant; the panic message does not contain it.
fn hold(target: &Target, data: &[u8]) {
    let held = panic::catch_unwind(AssertUnwindSafe(|| (target.body)(data)));
    assert!(held.is_ok(), "{} is broken by b\"{}\"", target.name, data.escape_ascii());
}

fn replay(name: &str) {
    let target = find(name).expect("a target");
    let seeds = corpus::seeds(tests(), target);
    assert!(!seeds.is_empty(), "{name} has no seeds");
    seeds.iter().for_each(|seed| hold(target, seed));
    let total: usize = seeds.iter().map(Vec::len).sum();
    let step = total.div_ceil(BEGINNINGS).max(1);
    for seed in &seeds {
        (0..seed.len()).step_by(step).for_each(|end| hold(target, &seed[..end]));
    }
    let mut dice = Dice::new(1);
    for _ in 0..MUTATIONS {
        hold(target, &mutated(&seeds, target.words, &mut dice));
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test] fn $name() { replay(stringify!($name)); })*

        #[test]
        fn every_target_is_replayed_here_and_has_a_program_and_a_folder_of_seeds() {
            let replayed = BTreeSet::from([$(stringify!($name).to_owned()),*]);
            let bodies: BTreeSet<_> = TARGETS.iter().map(|it| it.name.to_owned()).collect();
            assert_eq!(replayed, bodies);
            let manifest = fs::read_to_string(tests().join("fuzz/Cargo.toml")).expect("a manifest");
            for name in &bodies {
                let file = format!("fuzz_targets/{name}.rs");
                let program = fs::read_to_string(tests().join("fuzz").join(&file)).expect(&file);
                assert!(program.contains(&format!("find(\"{name}\")")), "{file}");
                assert!(manifest.contains(&format!("path = \"{file}\"")), "{file} is not built");
            }
            for folder in ["fuzz_targets", "corpus"] {
                let files = fs::read_dir(tests().join("fuzz").join(folder)).expect("a folder");
                let names = files.map(|file| {
                    let path = file.expect("readable").path();
                    path.file_stem().expect("a name").to_string_lossy().into_owned()
                });
                assert_eq!(names.collect::<BTreeSet<_>>(), bodies, "{folder}");
            }
        }
    };
}

targets! {
    chat generate embed manage messages responses pass form unpack sse stream answer vectors models
    errors backoff names template durations redact context origins config base_url
    config_file key_file repair plainest_form responses_items message_blocks
}
