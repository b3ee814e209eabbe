//! Stores the virtual models in memory and in one indented JSON file, with what client keys have used today.
//!
//! The file is read at start and written as a whole at every change (`state_file`), so that a crash leaves
//! either the old or the new state. It is created at the first change. A file that cannot be parsed is an error
//! and never overwritten. Readers share an immutable table and never wait for the disk.
//!
//! Two processes should not share a file, but may for a while, as when one replaces another: the second one
//! says so at start ([`Store::claim`]). Each reads the file again before it writes if another one has changed it,
//! so that no change is lost; it shows the other's models from then on. A file that was removed is written anew.
//! Invariant: memory changes only after the file has been written, or was changed by others.
//!
//! The file is `PROXY_STATE`, by default below `XDG_DATA_HOME`, else `~/.local/share`. Without a
//! home directory models are kept in memory only. It holds at most 1,000 models of 1 MiB each and
//! 64 MiB together. All clients share them. A damaged file stops the start.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::backends::names;
use crate::error::{Error, Result};
use crate::models::state_file::{self, Claim, Stamp};
use crate::models::virtual_model::VirtualModel;
use crate::observe::system_error;
use crate::observe::{lock, timestamp};

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
    write_lock: Mutex<Disk>,
}

/// What is known of the file.
#[derive(Debug, Default)]
struct Disk {
    /// The version that was read or written last.
    stamp: Option<Stamp>,
    /// Whether this process uses the file to its end.
    claims: bool,
    /// Open while no other process does.
    claim: Option<File>,
    /// Whether it was told that another process uses the file.
    is_told: bool,
    /// What the file says that keys have used.
    key_tokens: Option<KeyTokens>,
}

/// The contents of the file; `M` is a model or a reference to one.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateFile<M> {
    version: u32,
    models: Vec<M>,
    /// What client keys have used in a day; absent if none of them has a limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key_tokens: Option<KeyTokens>,
}

/// The tokens that client keys have used in one day.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct KeyTokens {
    /// The day in UTC, such as `2026-11-30`.
    day: String,
    /// By the names of the keys.
    tokens: Map<String, Value>,
}

impl KeyTokens {
    fn totals(&self) -> Vec<(String, u64)> {
        let total = |(name, count): (&String, &Value)| Some((name.clone(), count.as_u64()?));
        self.tokens.iter().filter_map(total).collect()
    }
}

/// A day since 1970 as text, which sorts as days do.
fn date_of(day: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(day.saturating_mul(86_400));
    timestamp::to_rfc3339(time).chars().take(10).collect()
}

/// The day of such a text.
fn day_of(date: &str) -> Option<u64> {
    let time = timestamp::parse_rfc3339(&format!("{date}T00:00:00Z"))?;
    Some(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs() / 86_400)
}

impl Store {
    /// Reads the file at `path`; a missing file means an empty store. Without a path, models are
    /// stored in memory only.
    ///
    /// # Errors
    /// A message that names the file and what is wrong with it.
    pub fn open(path: Option<PathBuf>) -> std::result::Result<Self, String> {
        let Contents { table, key_tokens, stamp } = match &path {
            Some(path) => {
                read_file(path).map_err(|why| format!("state file {} {why}", path.display()))?
            }
            None => Contents::default(),
        };
        let write_lock = Mutex::new(Disk { stamp, key_tokens, ..Disk::default() });
        Ok(Self { path, table: RwLock::new(Arc::new(table)), write_lock })
    }

    /// Notes that this process uses the file from now on, and warns if another one does.
    pub fn claim(&self) {
        if let Some(path) = &self.path {
            let mut disk = lock::lock(&self.write_lock);
            disk.claims = true;
            disk.try_claim(&state_file::resolve(path));
        }
    }

    /// Tries to write beside the file, and leaves nothing behind. A folder that is missing is created
    /// with the first model; then the folder above it counts.
    ///
    /// # Errors
    /// A message that names the file and what is wrong with it.
    pub fn check_writable(&self) -> std::result::Result<(), String> {
        let Some(path) = &self.path else { return Ok(()) };
        let written = state_file::check_writable(path);
        written.map_err(|error| {
            let why = system_error::describe(&error);
            format!("state file {} cannot be written: {why}", path.display())
        })
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

    /// Whether there is a file.
    pub fn has_file(&self) -> bool {
        self.path.is_some()
    }

    /// The day, in days since 1970, for which the file tells what client keys have used, and by their names how
    /// many tokens that is.
    pub fn key_tokens(&self) -> Option<(u64, Vec<(String, u64)>)> {
        let disk = lock::lock(&self.write_lock);
        let known = disk.key_tokens.as_ref()?;
        Some((day_of(&known.day)?, known.totals()))
    }

    /// Adds to what client keys have used in a day, and returns the sums. What another process has added
    /// meanwhile is kept. An earlier day is dropped; a later one stays as it is.
    ///
    /// # Errors
    /// [`Error::StateFile`] if the file cannot be written.
    pub fn add_key_tokens(&self, day: u64, added: &[(String, u64)]) -> Result<Vec<(String, u64)>> {
        let Some(path) = self.path.as_deref().map(state_file::resolve) else {
            return Ok(Vec::new());
        };
        let mut disk = lock::lock(&self.write_lock);
        let folder_lock = state_file::lock_folder(&path);
        if let Some(newer) = disk.read_if_changed(&path, false)? {
            *lock::write(&self.table) = Arc::new(newer);
        }
        let date = date_of(day);
        let mut sums = disk.key_tokens.clone().filter(|it| it.day >= date).unwrap_or_default();
        if sums.day > date {
            return Ok(Vec::new());
        }
        sums.day = date;
        for (name, tokens) in added {
            let sum = sums.tokens.get(name).and_then(Value::as_u64).unwrap_or_default();
            sums.tokens.insert(name.clone(), Value::from(sum.saturating_add(*tokens)));
        }
        let table = self.snapshot();
        disk.stamp = Some(write_file(&path, &table, Some(&sums), folder_lock)?);
        disk.try_claim(&path);
        let totals = sums.totals();
        disk.key_tokens = Some(sums);
        Ok(totals)
    }

    /// Applies `change` to a copy of the table, writes the copy if `change` returns true, and then
    /// publishes it.
    fn update(&self, change: impl FnOnce(&mut Table) -> Result<bool>) -> Result<bool> {
        let mut disk = lock::lock(&self.write_lock);
        let path = self.path.as_deref().map(state_file::resolve);
        let folder_lock = path.as_deref().and_then(state_file::lock_folder);
        if let Some(path) = &path
            && let Some(newer) = disk.read_if_changed(path, true)?
        {
            *lock::write(&self.table) = Arc::new(newer);
        }
        let mut table = Table::clone(&self.snapshot());
        let changed = change(&mut table)?;
        if changed {
            match &path {
                Some(path) => {
                    let written = write_file(path, &table, disk.key_tokens.as_ref(), folder_lock);
                    let stamp = written.inspect_err(|error| {
                        if let Error::StateFile(text) = error {
                            let why = text.trim_start_matches("the state file ");
                            log::error!("the state file {} {why}", path.display());
                        }
                    });
                    disk.stamp = Some(stamp?);
                    disk.try_claim(path);
                }
                None => log::warn!(
                    "no state file (--state, PROXY_STATE): created models are lost at exit"
                ),
            }
            *lock::write(&self.table) = Arc::new(table);
        }
        Ok(changed)
    }
}

impl Disk {
    /// The models in the file, if it is another one than the last that was read or written. `is_logged` tells
    /// whether that is worth a line.
    fn read_if_changed(&mut self, path: &Path, is_logged: bool) -> Result<Option<Table>> {
        let found = fs::metadata(path).ok().map(|metadata| state_file::stamp(&metadata));
        if found.is_none() || found == self.stamp {
            return Ok(None);
        }
        let Contents { table, key_tokens, stamp } = read_file(path).map_err(|why| {
            if is_logged {
                log::error!("the state file {} was changed, and {why}", path.display());
            }
            Error::StateFile(format!("the state file cannot be written: it was changed, and {why}"))
        })?;
        if is_logged {
            log::info!("the state file was changed by another process, and was read again");
        }
        (self.stamp, self.key_tokens) = (stamp, key_tokens);
        Ok(Some(table))
    }

    /// Becomes the only process that uses the file, or says once that there is another one.
    fn try_claim(&mut self, path: &Path) {
        if !self.claims || self.claim.is_some() {
            return;
        }
        match state_file::claim(path) {
            Claim::Held(file) => self.claim = Some(file),
            Claim::Taken if !self.is_told => {
                self.is_told = true;
                log::warn!(
                    "another running process uses the state file {}, too: what it creates or deletes is \
                     kept, and shows here after the next change or restart",
                    path.display()
                );
            }
            Claim::Taken | Claim::Unknown => {}
        }
    }
}

/// What the file holds.
#[derive(Default)]
struct Contents {
    table: Table,
    key_tokens: Option<KeyTokens>,
    stamp: Option<Stamp>,
}

/// Reads the file. The error continues the text "state file PATH".
fn read_file(path: &Path) -> std::result::Result<Contents, String> {
    let is_special = |found: &fs::Metadata| !found.is_file() && !found.is_dir();
    if fs::metadata(path).is_ok_and(|found| is_special(&found)) {
        return Err("cannot be read: it is not a regular file".to_owned());
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Contents::default()),
        Err(error) => return Err(describe_read(&error)),
    };
    let stamp = file.metadata().ok().map(|metadata| state_file::stamp(&metadata));
    let mut text = String::new();
    // One byte above the limit shows that the file exceeds it.
    let length = file
        .take(MAX_FILE_BYTES as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| describe_read(&error))?;
    if length > MAX_FILE_BYTES {
        return Err("exceeds 64 MiB".to_owned());
    }
    let state: StateFile<VirtualModel> =
        serde_json::from_str(&text).map_err(|error| with_advice(&describe_json_error(&error)))?;
    if state.version != FORMAT_VERSION {
        return Err(format!(
            "has format version {}, but only version {FORMAT_VERSION} is supported: was it written by a \
             newer version of this program?",
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
    Ok(Contents { table, key_tokens: state.key_tokens, stamp })
}

/// Why the file cannot be read.
fn describe_read(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::InvalidData => with_advice("is not UTF-8 text"),
        _ => format!("cannot be read: {}", system_error::describe(error)),
    }
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

fn write_file(
    path: &Path,
    table: &Table,
    key_tokens: Option<&KeyTokens>,
    lock: Option<File>,
) -> Result<Stamp> {
    let models: Vec<&VirtualModel> = table.values().map(AsRef::as_ref).collect();
    let key_tokens = key_tokens.cloned();
    let text = to_pretty_json(&StateFile { version: FORMAT_VERSION, models, key_tokens })?;
    if text.len() > MAX_FILE_BYTES {
        return Err(Error::invalid_request("all created models together exceed 64 MiB"));
    }
    state_file::replace(path, &text, lock).map_err(|error| {
        let why = state_file::describe_write(&error);
        Error::StateFile(format!("the state file cannot be written: {why}"))
    })
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
    fn stores_of_one_file_lose_no_change_of_each_other() {
        let folder = folder("shared");
        let path = folder.join("state.json");
        let open = || Store::open(Some(path.clone())).expect("a good file");
        let (one, two) = (open(), open());
        one.put(model("a")).expect("written");
        two.put(model("b")).expect("written");
        assert_eq!((names(&one), names(&two)), (vec!["a:latest".into()], names(&open())));
        assert!(one.remove("b").expect("written"), "it is there, although it was not shown");
        two.put(model("c")).expect("written");
        assert_eq!(names(&two), ["a:latest", "c:latest"]);
        assert_eq!(names(&open()), names(&two));
        // What is broken stays as it is, and the models too.
        fs::write(&path, "{").expect("writable");
        let error = one.put(model("d")).expect_err("the file is broken");
        let told = error.message();
        assert!(
            told.contains("it was changed, and is not valid JSON (line 1, column 1)"),
            "{told}"
        );
        assert_eq!(fs::read_to_string(&path).expect("there"), "{");
        // A file that is gone is written anew.
        fs::remove_file(&path).expect("removable");
        two.put(model("d")).expect("written");
        assert_eq!(names(&open()), ["a:latest", "c:latest", "d:latest"]);
        fs::remove_dir_all(&folder).expect("removable");
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
