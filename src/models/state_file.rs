//! The files of the store: the state file is replaced as a whole, and two processes on one file notice each
//! other.
//!
//! A new state is written to a file of a random name in the same folder, created new and for its owner only,
//! synced and renamed; then the folder is synced. What a crash left of such a file is removed before the next
//! one is written. Two locks, both of the kind that ends with its process (`flock`):
//!
//! | lock | held | shows |
//! | --- | --- | --- |
//! | `<file>.lock`, which is created for it and stays | from the start to the end | that another process uses the file |
//! | the folder | while the file is read and written | that another process writes |
//!
//! A folder that cannot be locked, such as one of another system's server, is used without. Never follows a
//! link but that of the state file itself. Invariant: no file of another name is changed or removed.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use crate::observe::system_error;

/// Links that are followed to a file that does not exist yet.
const MAX_LINKS: usize = 40;

/// How often the folder's lock is tried, and the time between: a second together.
const LOCK_ATTEMPTS: usize = 40;
const LOCK_INTERVAL: Duration = Duration::from_millis(25);

/// Random names that are tried.
const NAME_ATTEMPTS: usize = 8;

/// What tells one version of a file from another: device, number, time of change and length.
pub(super) type Stamp = [u128; 4];

/// Whether this process is the only one that uses a state file.
pub(super) enum Claim {
    /// It is, as long as the file is open.
    Held(File),
    /// Another one uses it.
    Taken,
    /// That cannot be found out.
    Unknown,
}

/// The stamp of a file.
#[cfg(unix)]
pub(super) fn stamp(metadata: &Metadata) -> Stamp {
    use std::os::unix::fs::MetadataExt;
    let nanoseconds = i128::from(metadata.mtime()) * 1_000_000_000;
    let changed_at = nanoseconds + i128::from(metadata.mtime_nsec());
    let length = metadata.len().into();
    [metadata.dev().into(), metadata.ino().into(), changed_at.unsigned_abs(), length]
}

/// The stamp of a file.
#[cfg(not(unix))]
pub(super) fn stamp(metadata: &Metadata) -> Stamp {
    let since = metadata.modified().ok().and_then(|at| at.elapsed().ok());
    [0, 0, since.map_or(0, |since| since.as_secs().into()), metadata.len().into()]
}

/// The file itself, behind symbolic links. It need not exist.
pub(super) fn resolve(path: &Path) -> PathBuf {
    let mut found = path.to_owned();
    for _ in 0..MAX_LINKS {
        if let Ok(real) = fs::canonicalize(&found) {
            return real;
        }
        let Ok(target) = fs::read_link(&found) else { break };
        found = folder_of(&found).join(target);
    }
    found
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The name of a file with something behind it.
fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name: OsString = path.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}

/// Tries to become the only process that uses a state file. Creates the lock's file, but no folder.
pub(super) fn claim(path: &Path) -> Claim {
    let path = with_suffix(path, ".lock");
    let open = |creates: bool| {
        let mut options = OpenOptions::new();
        options.read(true).write(creates).create_new(creates);
        restrict(&mut options);
        options.open(&path)
    };
    // Kept open for reading only, so that its file system may become read-only meanwhile.
    let opened = open(false).or_else(|error| match error.kind() {
        ErrorKind::NotFound => open(true).and_then(|_| open(false)),
        _ => Err(error),
    });
    let Ok(file) = opened else { return Claim::Unknown };
    match try_lock(&file) {
        Ok(true) => Claim::Held(file),
        Ok(false) => Claim::Taken,
        Err(_) => Claim::Unknown,
    }
}

/// Keeps other processes from changing the state files of a folder until the result is dropped; `None` if it
/// does not exist, cannot be locked, or is locked for long.
pub(super) fn lock_folder(path: &Path) -> Option<File> {
    let folder = File::open(folder_of(path)).ok()?;
    for _ in 0..LOCK_ATTEMPTS {
        if try_lock(&folder).ok()? {
            return Some(folder);
        }
        thread::sleep(LOCK_INTERVAL);
    }
    log::warn!(
        "the folder of the state file is locked by another process: writing without the lock"
    );
    None
}

/// Whether the lock was free; the lock ends with the file.
#[cfg(target_os = "linux")]
fn try_lock(file: &File) -> io::Result<bool> {
    use rustix::fs::{FlockOperation, flock};
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Locks are used on Linux only.
#[cfg(not(target_os = "linux"))]
fn try_lock(_: &File) -> io::Result<bool> {
    Err(ErrorKind::Unsupported.into())
}

/// Replaces a file by one with this text, and returns its stamp. `lock` is that of its folder, if it has one.
pub(super) fn replace(path: &Path, text: &[u8], lock: Option<File>) -> io::Result<Stamp> {
    let folder = folder_of(path);
    fs::create_dir_all(folder)?;
    // A folder that was just created is locked, too.
    let lock = lock.or_else(|| lock_folder(path));
    if lock.is_some() {
        remove_leftovers(path);
    }
    let (temporary, mut file) = create_new(|name| with_suffix(path, &format!(".{name}.new")))?;
    let written = file
        .write_all(text)
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| file.metadata());
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    let written = written?;
    // Without it, a power failure could undo the rename; the file is complete either way.
    match File::open(folder).and_then(|folder| folder.sync_all()) {
        Err(error) if !is_unsupported(&error) => {
            let why = system_error::describe(&error);
            log::warn!("the folder of the state file cannot be synced to the disk: {why}");
        }
        _ => {}
    }
    Ok(stamp(&written))
}

/// True where a folder cannot be opened, or its file system syncs none.
fn is_unsupported(error: &io::Error) -> bool {
    let kind = error.kind();
    matches!(kind, ErrorKind::Unsupported | ErrorKind::InvalidInput | ErrorKind::PermissionDenied)
}

/// Why the file cannot be written. One that is a mount of its own cannot be replaced.
pub(super) fn describe_write(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ResourceBusy => {
            "it is mounted by itself: mount its folder instead of the file alone".to_owned()
        }
        _ => system_error::describe(error),
    }
}

/// Creates a file of a random name that did not exist, for its owner only, because it holds prompts.
fn create_new(path: impl Fn(&str) -> PathBuf) -> io::Result<(PathBuf, File)> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    restrict(&mut options);
    let mut tries = 0;
    loop {
        let path = path(&format!("{:016x}", rand::random::<u64>()));
        match options.open(&path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && tries < NAME_ATTEMPTS => {
                tries += 1;
            }
            opened => return opened.map(|file| (path, file)),
        }
    }
}

/// Only the owner may read or write what is created, and no link is followed.
fn restrict(options: &mut OpenOptions) {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    #[cfg(target_os = "linux")]
    std::os::unix::fs::OpenOptionsExt::custom_flags(options, libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let _ = options;
}

/// Tries to write beside the file, and leaves nothing behind. A folder that is missing is created with the
/// file; then the folder above it counts.
pub(super) fn check_writable(path: &Path) -> io::Result<()> {
    let path = resolve(path);
    let folder = path.ancestors().skip(1).find(|folder| folder.exists());
    let folder = folder.filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (probe, mut file) =
        create_new(|name| folder.join(format!(".ollama-openai-proxy.{name}.check")))?;
    let written = file.write_all(b"\n").and_then(|()| file.sync_all());
    let _ = fs::remove_file(&probe);
    written
}

/// Removes what crashes have left of new states. The folder is locked, so nobody writes one.
fn remove_leftovers(path: &Path) {
    let (Some(name), Ok(entries)) = (path.file_name(), fs::read_dir(folder_of(path))) else {
        return;
    };
    for entry in entries.flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if is_file && is_leftover(&entry.file_name().to_string_lossy(), &name.to_string_lossy()) {
            log::info!("removing what an interrupted write of the state file has left");
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// True for the name of a new state of the file `name`. Earlier versions put the process id into it.
fn is_leftover(found: &str, name: &str) -> bool {
    let middle = found.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
    let number = middle.and_then(|rest| rest.strip_suffix(".new")).unwrap_or_default();
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (1..=16).contains(&number.len()) && number.bytes().all(is_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(name: &str) -> PathBuf {
        let name = format!("state-file-{name}-{}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder").flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[cfg(unix)]
    #[test]
    fn a_stamp_differs_with_each_second_and_each_nanosecond() {
        let folder = folder("stamp");
        let file = File::create(folder.join("state.json")).expect("a file");
        let stamp_at = |seconds, nanoseconds| {
            let time = std::time::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
            file.set_modified(time).expect("set");
            stamp(&file.metadata().expect("metadata"))
        };
        let stamps = [stamp_at(7, 0), stamp_at(8, 0), stamp_at(8, 1), stamp_at(9, 1)];
        for (place, stamp) in stamps.iter().enumerate() {
            assert!(!stamps[..place].contains(stamp), "{stamps:?}");
        }
        assert_eq!(stamp_at(8, 1), stamps[2]);
        let _ = fs::remove_dir_all(&folder);
    }

    #[test]
    fn only_new_states_of_the_same_file_are_leftovers() {
        for name in ["s.json.1.new", "s.json.4194304.new", "s.json.0123456789abcdef.new"] {
            assert!(is_leftover(name, "s.json"), "{name}");
        }
        for name in [
            "s.json",
            "s.json.new",
            "s.json..new",
            "s.json.lock",
            "s.json.1.new.bak",
            "s.json.xyz.new",
            "s.json.0123456789ABCDEF.new",
            "s.json.0123456789abcdef0.new",
            "other.json.1.new",
            "1.new",
        ] {
            assert!(!is_leftover(name, "s.json"), "{name}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn leftovers_are_replaced_and_nothing_else_is_touched() {
        let folder = folder("leftovers");
        let path = folder.join("s.json");
        fs::write(folder.join("s.json.1.new"), "half").expect("written");
        fs::write(folder.join("s.json.notes.new"), "mine").expect("written");
        fs::create_dir(folder.join("s.json.2.new")).expect("a folder");
        std::os::unix::fs::symlink("s.json.notes.new", folder.join("s.json.3.new"))
            .expect("a link");
        replace(&path, b"new", lock_folder(&path)).expect("written");
        let expected = ["s.json", "s.json.2.new", "s.json.3.new", "s.json.notes.new"];
        assert_eq!(names(&folder), expected);
        assert_eq!(fs::read_to_string(folder.join("s.json.notes.new")).expect("there"), "mine");
        fs::remove_dir_all(&folder).expect("removable");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_link_is_followed_also_to_a_file_that_does_not_exist_yet() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = folder("links");
        let (path, target) = (folder.join("s.json"), folder.join("below/target.json"));
        symlink("link.json", &path).expect("a link");
        symlink("below/target.json", folder.join("link.json")).expect("a link");
        for text in ["one", "two"] {
            let resolved = resolve(&path);
            replace(&resolved, text.as_bytes(), lock_folder(&resolved)).expect("written");
            assert_eq!(fs::read_to_string(&target).expect("there"), text);
            assert!(fs::symlink_metadata(&path).expect("there").is_symlink());
        }
        let mode = fs::metadata(&target).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(names(&folder.join("below")), ["target.json"]);
        // A circle ends.
        symlink("b", folder.join("a")).expect("a link");
        symlink("a", folder.join("b")).expect("a link");
        resolve(&folder.join("a"));
        fs::remove_dir_all(&folder).expect("removable");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_lock_is_no_link_and_is_free_when_its_holder_ends() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let folder = folder("claim");
        let path = folder.join("s.json");
        let Claim::Held(held) = claim(&path) else { panic!("nobody else is there") };
        assert!(matches!(claim(&path), Claim::Taken));
        let lock = folder.join("s.json.lock");
        let mode = fs::metadata(&lock).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(held);
        assert!(matches!(claim(&path), Claim::Held(_)));
        fs::remove_file(&lock).expect("removable");
        symlink("elsewhere", &lock).expect("a link");
        assert!(matches!(claim(&path), Claim::Unknown));
        assert!(!folder.join("elsewhere").exists());
        assert!(matches!(claim(&folder.join("missing/s.json")), Claim::Unknown));
        fs::remove_dir_all(&folder).expect("removable");
    }

    #[test]
    fn a_mount_of_the_file_alone_is_told_with_a_hint() {
        let told = describe_write(&ErrorKind::ResourceBusy.into());
        assert!(told.ends_with(": mount its folder instead of the file alone"), "{told}");
        assert!(!describe_write(&ErrorKind::StorageFull.into()).contains("mount"));
    }
}
