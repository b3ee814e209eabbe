//! Where inputs begin: the files of `corpus/TARGET/`, and golden files that the target reads.

use std::fs;
use std::path::{Path, PathBuf};

use super::Target;

/// The seeds of a target, in the order of their names; `tests` is the folder of the tests.
#[must_use]
pub fn seeds(tests: &Path, target: &Target) -> Vec<Vec<u8>> {
    let mut found: Vec<Vec<u8>> =
        files(&tests.join("fuzz/corpus").join(target.name)).iter().map(|it| read(it)).collect();
    for (endpoint, name) in target.golden {
        for folder in files(&tests.join("golden").join(endpoint)) {
            let wanted = |path: &&PathBuf| {
                path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(name))
            };
            found.extend(files(&folder).iter().filter(wanted).map(|it| read(it)));
        }
    }
    found
}

/// What a folder holds; nothing where there is none.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut found: Vec<PathBuf> = entries.filter_map(|it| it.ok().map(|it| it.path())).collect();
    found.sort();
    found
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
