//! Stores the virtual models in memory and in one indented JSON file.
//!
//! The file is read once at start and written as a whole at every change: to a temporary file in the
//! same directory, synced, then renamed, so that a crash leaves either the old or the new state. It is
//! created at the first change. A file that cannot be parsed is an error and never overwritten.
//! Readers share an immutable table and never wait for the disk. Two processes must not share a file:
//! the last to write wins. Invariant: memory changes only after the file has been written.
//!
//! The file is `PROXY_STATE`, by default below `XDG_DATA_HOME`, else `~/.local/share`. Without a
//! home directory models are kept in memory only. It holds at most 1,000 models of 1 MiB each and
//! 64 MiB together. All clients share them. A damaged file stops the start.

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

/// The version of the file format.
const FORMAT_VERSION: u32 = 1;

/// The most models in the store.
const MAX_MODELS: usize = 1000;

/// The largest model in bytes of JSON: 1 MiB.
const MAX_MODEL_BYTES: usize = 1 << 20;

/// The largest file in bytes: 64 MiB, since each change writes the whole file.
const MAX_FILE_BYTES: usize = 64 << 20;

/// All models by [`names::canonical_key`] of their names.
pub type Table = BTreeMap<String, Arc<VirtualModel>>;

/// The stored models.
#[derive(Debug)]
pub struct Store {
    path: Option<PathBuf>,
    table: RwLock<Arc<Table>>,
    /// Serializes changes, including the write to the disk.
    write_lock: Mutex<()>,
}

/// The contents of the file; `M` is a model or a reference to one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile<M> {
    version: u32,
    models: Vec<M>,
}

impl Store {
    /// Reads the file at `path`; a missing file means an empty store. Without a path, models are
    /// stored in memory only.
    ///
    /// # Errors
    /// A message that names the file and what is wrong with it.
    pub fn open(path: Option<PathBuf>) -> std::result::Result<Self, String> {
        let table = match &path {
            Some(path) => {
                read_file(path).map_err(|why| format!("state file {} {why}", path.display()))?
            }
            None => Table::new(),
        };
        Ok(Self { path, table: RwLock::new(Arc::new(table)), write_lock: Mutex::default() })
    }

    /// Tries to write beside the file, and leaves nothing behind. A folder that is missing is created
    /// with the first model; then the folder above it counts.
    ///
    /// # Errors
    /// A message that names the file and what is wrong with it.
    pub fn check_writable(&self) -> std::result::Result<(), String> {
        let Some(path) = &self.path else { return Ok(()) };
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        let folder = path.ancestors().skip(1).find(|folder| folder.exists());
        let folder = folder.unwrap_or_else(|| Path::new("."));
        let probe = folder.join(format!(".ollama-openai-proxy.{}.check", std::process::id()));
        let written = write_new_file(&probe, b"\n");
        let _ = fs::remove_file(&probe);
        written.map_err(|error| format!("state file {} cannot be written: {error}", path.display()))
    }

    /// All current models.
    pub fn snapshot(&self) -> Arc<Table> {
        lock::read(&self.table).clone()
    }

    /// The model of a name in any of its spellings.
    pub fn get(&self, name: &str) -> Option<Arc<VirtualModel>> {
        self.snapshot().get(&names::canonical_key(name)).cloned()
    }

    /// Stores a model. A model of the same name is replaced; the spelling of its name is kept.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] if the model is too large or the store is full, [`Error::StateFile`]
    /// if the file cannot be written.
    pub fn put(&self, mut model: VirtualModel) -> Result<()> {
        self.update(|table| {
            let key = names::canonical_key(&model.name);
            if let Some(old) = table.get(&key) {
                model.name.clone_from(&old.name);
            } else if table.len() >= MAX_MODELS {
                let text = "the limit of 1,000 created models is reached; delete one first";
                return Err(Error::invalid_request(text));
            }
            if to_pretty_json(&model)?.len() > MAX_MODEL_BYTES {
                return Err(Error::invalid_request("the model exceeds 1 MiB"));
            }
            table.insert(key, Arc::new(model));
            Ok(true)
        })
        .map(drop)
    }

    /// Removes a model; returns whether it existed.
    ///
    /// # Errors
    /// [`Error::StateFile`] if the file cannot be written.
    pub fn remove(&self, name: &str) -> Result<bool> {
        self.update(|table| Ok(table.remove(&names::canonical_key(name)).is_some()))
    }

    /// Applies `change` to a copy of the table, writes the copy if `change` returns true, and then
    /// publishes it.
    fn update(&self, change: impl FnOnce(&mut Table) -> Result<bool>) -> Result<bool> {
        let _guard = lock::lock(&self.write_lock);
        let mut table = Table::clone(&self.snapshot());
        let changed = change(&mut table)?;
        if changed {
            match &self.path {
                Some(path) => write_file(path, &table)?,
                None => log::warn!(
                    "no state file (--state, PROXY_STATE): created models are lost at exit"
                ),
            }
            *lock::write(&self.table) = Arc::new(table);
        }
        Ok(changed)
    }
}

/// Reads the file. The error continues the text "state file PATH".
fn read_file(path: &Path) -> std::result::Result<Table, String> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Table::new()),
        Err(error) => return Err(format!("cannot be read: {error}")),
    };
    let mut text = String::new();
    // One byte above the limit shows that the file exceeds it.
    let length = file
        .take(MAX_FILE_BYTES as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if length > MAX_FILE_BYTES {
        return Err("exceeds 64 MiB".to_owned());
    }
    let state: StateFile<VirtualModel> =
        serde_json::from_str(&text).map_err(|error| with_advice(&describe_json_error(&error)))?;
    if state.version != FORMAT_VERSION {
        return Err(format!(
            "has format version {}, but only version {FORMAT_VERSION} is supported",
            state.version
        ));
    }
    if state.models.len() > MAX_MODELS {
        return Err("has more than 1,000 models".to_owned());
    }
    let mut table = Table::new();
    for model in state.models {
        model.validate().map_err(|why| with_advice(&format!("has an invalid model: {why}")))?;
        let name = model.name.clone();
        if table.insert(names::canonical_key(&name), Arc::new(model)).is_some() {
            return Err(with_advice(&format!("has the model {name:?} twice")));
        }
    }
    Ok(table)
}

fn with_advice(problem: &str) -> String {
    format!("{problem}: repair it, or move it away to start with an empty one")
}

/// Says what is wrong and where, without quoting the file, which holds prompts.
fn describe_json_error(error: &serde_json::Error) -> String {
    let (line, column) = (error.line(), error.column());
    let problem =
        if error.is_data() { "does not hold created models" } else { "is not valid JSON" };
    format!("{problem} (line {line}, column {column})")
}

fn write_file(path: &Path, table: &Table) -> Result<()> {
    let models: Vec<&VirtualModel> = table.values().map(AsRef::as_ref).collect();
    let text = to_pretty_json(&StateFile { version: FORMAT_VERSION, models })?;
    if text.len() > MAX_FILE_BYTES {
        return Err(Error::invalid_request("all created models together exceed 64 MiB"));
    }
    replace_file(path, &text).map_err(|error| {
        log::error!("the state file {} cannot be written: {error}", path.display());
        Error::StateFile(format!("the state file cannot be written: {error}"))
    })
}

fn replace_file(path: &Path, text: &[u8]) -> io::Result<()> {
    // Follow a symbolic link, so that its target is replaced and not the link.
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder)?;
    let mut temporary = path.clone().into_os_string();
    temporary.push(format!(".{}.new", std::process::id()));
    let written =
        write_new_file(Path::new(&temporary), text).and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
        return written;
    }
    // Sync the rename. Not every file system supports this, and the file is complete either way.
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
    Ok(())
}

/// Creates a file that only its owner may read, because it holds prompts.
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
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|_| Error::Internal("cannot serialize the state file"))?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    /// A directory for one test.
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
    fn whether_it_can_be_written_is_found_without_a_trace() {
        let folder = folder("writable");
        let store = Store::open(Some(folder.join("below").join("state.json"))).expect("no file");
        assert_eq!(store.check_writable(), Ok(()));
        assert!(!folder.exists(), "nothing is created");
        fs::create_dir_all(&folder).expect("a folder");
        assert_eq!(store.check_writable(), Ok(()));
        assert_eq!(fs::read_dir(&folder).expect("there").count(), 0, "nothing is left");
        // A file where a folder should be: nobody can write below it.
        fs::write(folder.join("below"), "").expect("a file");
        let why = store.check_writable().expect_err("no folder");
        assert!(why.starts_with("state file ") && why.contains(" cannot be written: "), "{why}");
        assert_eq!(Store::open(None).expect("in memory").check_writable(), Ok(()));
        fs::remove_dir_all(&folder).expect("there");
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
            assert!(told.starts_with("state file ") && told.contains(expected), "{told}");
            assert_eq!(fs::read_to_string(&path).expect("there"), text);
        };
        let one = r#"{"name":"a:b","from":"x","modified_at":"2026-01-02T03:04:05Z"}"#;
        let advice = ": repair it, or move it away to start with an empty one";
        check("", &format!("is not valid JSON (line 1, column 0){advice}"));
        check("{\"version\":1,\"models\":[", "is not valid JSON (line 1, column 23)");
        check("[]", "does not hold created models (line 1, ");
        let other = "has format version 2, but only version 1 is supported";
        check("{\"version\":2,\"models\":[]}", other);
        check(
            "{\"version\":1,\"models\":[{\"name\":5}]}",
            "does not hold created models (line 1, ",
        );
        let twice = format!("has the model \"a:b\" twice{advice}");
        check(&format!("{{\"version\":1,\"models\":[{one},{one}]}}"), &twice);
        let no_time = one.replace("2026", "someday");
        check(
            &format!("{{\"version\":1,\"models\":[{no_time}]}}"),
            "\"a:b\" has an invalid \"modified_at\"",
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
        assert_eq!(
            error.message(),
            "the limit of 1,000 created models is reached; delete one first"
        );
        store.put(model("m1")).expect("replaced");
    }
}
