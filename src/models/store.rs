//! The virtual models, in memory and in one JSON file that a person can read.
//!
//! The file is read once, at the start, and written whole at every change: to a new file in the same
//! folder, flushed to the disk, then renamed, so that a reader or a crash meets either the old state
//! or the new one. It is made when it is first needed. A file that cannot be understood is an error
//! and never overwritten. Invariant: memory changes only after the disk did. Readers take a finished
//! table and never wait for the disk. Two processes must not share a file: the last to write wins.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};

use serde::{Deserialize, Serialize};

use crate::backends::names;
use crate::error::{Error, Result};
use crate::models::virtual_model::VirtualModel;
use crate::observe::lock;

/// The version of the file's format.
const FORMAT_VERSION: u32 = 1;

/// Models that are kept at once.
const MAX_MODELS: usize = 1000;

/// The largest model, in bytes of JSON.
const MAX_MODEL_BYTES: usize = 1 << 20;

/// The largest file, in bytes: what one change may cost.
const MAX_FILE_BYTES: usize = 64 << 20;

/// All models, by [`names::canonical_key`] of their name.
pub type Table = BTreeMap<String, Arc<VirtualModel>>;

/// The kept models.
#[derive(Debug)]
pub struct Store {
    path: Option<PathBuf>,
    table: RwLock<Arc<Table>>,
    /// Held while a change is made, disk included.
    write_lock: Mutex<()>,
}

/// The file, as it is read.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile {
    version: u32,
    models: Vec<VirtualModel>,
}

/// The file, as it is written.
#[derive(Serialize)]
struct StateFileRef<'a> {
    version: u32,
    models: Vec<&'a VirtualModel>,
}

impl Store {
    /// Reads the file at `path`; one that is not there holds nothing. Without a path, models are
    /// kept in memory only.
    ///
    /// # Errors
    /// A sentence for whoever starts the program.
    pub fn open(path: Option<PathBuf>) -> std::result::Result<Self, String> {
        let table = match &path {
            Some(path) => {
                read_file(path).map_err(|why| format!("the state file {} {why}", path.display()))?
            }
            None => Table::new(),
        };
        Ok(Self { path, table: RwLock::new(Arc::new(table)), write_lock: Mutex::default() })
    }

    /// All models as they are now.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Table> {
        lock::read(&self.table).clone()
    }

    /// The model that a name means, in any of its spellings.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<VirtualModel>> {
        self.snapshot().get(&names::canonical_key(name)).cloned()
    }

    /// Keeps a model; one of the same name is replaced, and keeps the case of its name.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] when it is too large or one too many, [`Error::StateFile`] when it
    /// cannot be written.
    pub fn put(&self, mut model: VirtualModel) -> Result<()> {
        self.update(|table| {
            let key = names::canonical_key(&model.name);
            if let Some(old) = table.get(&key) {
                model.name.clone_from(&old.name);
            } else if table.len() >= MAX_MODELS {
                let text =
                    format!("no more than {MAX_MODELS} models can be made; delete one first");
                return Err(Error::invalid_request(text));
            }
            if to_pretty_json(&model)?.len() > MAX_MODEL_BYTES {
                let text = format!("the model is larger than {MAX_MODEL_BYTES} bytes");
                return Err(Error::invalid_request(text));
            }
            table.insert(key, Arc::new(model));
            Ok(true)
        })
        .map(drop)
    }

    /// Forgets a model; whether there was one.
    ///
    /// # Errors
    /// [`Error::StateFile`] when the file cannot be written.
    pub fn remove(&self, name: &str) -> Result<bool> {
        self.update(|table| Ok(table.remove(&names::canonical_key(name)).is_some()))
    }

    /// Changes a copy of the table, writes it if it did change, and only then shows it.
    fn update(&self, make: impl FnOnce(&mut Table) -> Result<bool>) -> Result<bool> {
        let _guard = lock::lock(&self.write_lock);
        let mut table = Table::clone(&self.snapshot());
        let changed = make(&mut table)?;
        if changed {
            match &self.path {
                Some(path) => write_file(path, &table)?,
                None => log::warn!("models that are made here are kept in memory only"),
            }
            *lock::write(&self.table) = Arc::new(table);
        }
        Ok(changed)
    }
}

/// Reads the file; the error ends a sentence that begins with its name.
fn read_file(path: &Path) -> std::result::Result<Table, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Table::new()),
        Err(error) => return Err(format!("cannot be read: {error}")),
    };
    let mut text = String::new();
    // One byte more than the limit tells a file at the limit from one above it.
    let length = file
        .take(MAX_FILE_BYTES as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if length > MAX_FILE_BYTES {
        return Err(format!("is larger than {MAX_FILE_BYTES} bytes"));
    }
    let advice = "mend it, or move it away to start anew";
    let kept: StateFile = serde_json::from_str(&text)
        .map_err(|error| format!("is damaged: {}; {advice}", describe_json_error(&error)))?;
    if kept.version != FORMAT_VERSION {
        return Err(format!(
            "has version {}, and this program knows {FORMAT_VERSION}",
            kept.version
        ));
    }
    if kept.models.len() > MAX_MODELS {
        return Err(format!("holds more than {MAX_MODELS} models"));
    }
    let mut table = Table::new();
    for model in kept.models {
        model.validate().map_err(|why| format!("is damaged: {why}; {advice}"))?;
        let name = model.name.clone();
        if table.insert(names::canonical_key(&name), Arc::new(model)).is_some() {
            return Err(format!("is damaged: it holds {name:?} twice; {advice}"));
        }
    }
    Ok(table)
}

/// What is wrong with the JSON and where; never a text of the file but names of members.
fn describe_json_error(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let what = if error.is_data() { "not the state of this program" } else { "no JSON" };
    format!("{what} at line {line}, column {column}")
}

/// Writes the file beside its place and puts it there. What is half-written is removed again.
fn write_file(path: &Path, table: &Table) -> Result<()> {
    let models: Vec<&VirtualModel> = table.values().map(AsRef::as_ref).collect();
    let text = to_pretty_json(&StateFileRef { version: FORMAT_VERSION, models })?;
    if text.len() > MAX_FILE_BYTES {
        let text = format!("all models together would be larger than {MAX_FILE_BYTES} bytes");
        return Err(Error::invalid_request(text));
    }
    replace_file(path, &text).map_err(|error| {
        log::error!("the state file {} cannot be written: {error}", path.display());
        Error::StateFile { reason: format!("the state file cannot be written: {error}") }
    })
}

fn replace_file(path: &Path, text: &[u8]) -> io::Result<()> {
    // A link stays one: what it leads to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let beside = folder.join(name);
    let written = write_new_file(&beside, text).and_then(|()| fs::rename(&beside, &path));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
        return written;
    }
    // The rename itself; not every file system can, and the state is whole either way.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// A new file that only its owner may read: there are prompts in it.
fn write_new_file(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn to_pretty_json(value: &impl Serialize) -> Result<Vec<u8>> {
    let mut text =
        serde_json::to_vec_pretty(value).map_err(|_| Error::Internal("a state that is no JSON"))?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    /// A folder of a test's own.
    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("store-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    fn model(name: &str) -> VirtualModel {
        VirtualModel::alias(name, "base", SystemTime::UNIX_EPOCH)
    }

    fn names(store: &Store) -> Vec<String> {
        store.snapshot().values().map(|model| model.name.clone()).collect()
    }

    #[test]
    fn what_was_put_is_there_after_a_new_start() {
        let folder = folder("start");
        let path = folder.join("below").join("state.json");
        let open = || Store::open(Some(path.clone())).expect("a good file");
        let store = open();
        assert!(!folder.exists(), "nothing is made before it is needed");
        assert!(!store.remove("nothing").expect("no change") && !folder.exists());
        store.put(model("Mario")).expect("written");
        store.put(model("b:8b")).expect("written");
        let again = open();
        assert_eq!(names(&again), ["b:8b", "Mario:latest"]);
        assert!(again.get("MARIO").is_some() && again.get("mario:latest").is_some());
        let text = fs::read_to_string(&path).expect("a file");
        assert!(text.contains("\n      \"name\": \"Mario:latest\",\n"), "{text}");
        assert!(again.remove("mario").expect("written"));
        assert_eq!(names(&open()), ["b:8b"]);
        let left: Vec<_> = fs::read_dir(folder.join("below")).expect("a folder").collect();
        assert_eq!(left.len(), 1, "{left:?}");
        fs::remove_dir_all(&folder).expect("removable");
    }

    #[test]
    fn a_replaced_model_keeps_the_case_of_its_name() {
        let store = Store::open(None).expect("memory");
        store.put(model("Mario")).expect("kept");
        store.put(model("mario:LATEST")).expect("kept");
        assert_eq!(names(&store), ["Mario:latest"]);
    }

    #[test]
    fn readers_do_not_wait_for_a_change() {
        let store = Store::open(None).expect("memory");
        store.put(model("a")).expect("kept");
        let _change = store.write_lock.lock().expect("no panic");
        assert!(store.get("a").is_some() && store.snapshot().len() == 1);
    }

    #[test]
    fn damaged_files_are_errors_and_stay_as_they_are() {
        let folder = folder("damaged");
        fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("state.json");
        let check = |text: &str, expected: &str| {
            fs::write(&path, text).expect("writable");
            let told = Store::open(Some(path.clone())).expect_err(text);
            assert!(told.starts_with("the state file ") && told.contains(expected), "{told}");
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        };
        let one = r#"{"name":"a:b","from":"x","modified_at":"2026-01-02T03:04:05Z"}"#;
        check("", "is damaged: no JSON at line 1");
        check("{\"version\":1,\"models\":[", "is damaged: no JSON at line 1");
        check("[]", "not the state of this program");
        check("{\"version\":2,\"models\":[]}", "has version 2, and this program knows 1");
        check("{\"version\":1,\"models\":[{\"name\":5}]}", "not the state of this program");
        check(&format!("{{\"version\":1,\"models\":[{one},{one}]}}"), "holds \"a:b\" twice");
        let no_time = one.replace("2026", "someday");
        check(
            &format!("{{\"version\":1,\"models\":[{no_time}]}}"),
            "\"a:b\" has a \"modified_at\"",
        );
        let told = Store::open(Some(folder.clone())).expect_err("a folder is no file");
        assert!(told.contains("cannot be read"), "{told}");
        fs::remove_dir_all(&folder).expect("removable");
    }

    #[test]
    fn what_cannot_be_written_changes_nothing() {
        let folder = folder("unwritable");
        fs::create_dir_all(folder.join("state.json")).expect("a folder");
        let path = folder.join("state.json");
        // A folder where the file should be: even root cannot rename a file over it.
        let store = Store { path: Some(path), ..Store::open(None).expect("memory") };
        let error = store.put(model("a")).expect_err("not writable");
        assert_eq!(error.status(), Some(500));
        assert!(error.message().starts_with("the state file cannot be written: "), "{error}");
        assert!(store.snapshot().is_empty());
        let left: Vec<_> = fs::read_dir(&folder).expect("a folder").flatten().collect();
        assert_eq!(left.len(), 1, "nothing half-written remains: {left:?}");
        fs::remove_dir_all(&folder).expect("removable");
    }

    #[test]
    fn number_and_size_are_bounded() {
        let store = Store::open(None).expect("memory");
        let mut large = model("large");
        large.system = "x".repeat(MAX_MODEL_BYTES);
        assert_eq!(store.put(large).expect_err("too large").status(), Some(400));
        let full =
            (0..MAX_MODELS).map(|n| (format!("m{n}:latest"), Arc::new(model(&format!("m{n}")))));
        *store.table.write().expect("no panic") = Arc::new(full.collect());
        let error = store.put(model("more")).expect_err("one too many");
        assert_eq!(error.message(), "no more than 1000 models can be made; delete one first");
        store.put(model("m1")).expect("replaced");
    }
}
