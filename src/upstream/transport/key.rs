//! The key of an upstream, which a file may hold: read anew when the upstream refuses it.
//!
//! Invariant: no message holds the content of a file, nor its path, because a user may have put the key in
//! its place.

use std::path::{Path, PathBuf};
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::tls_files::read_bounded;
use crate::observe::lock;
use crate::observe::redact::{Redactor, Secret};
use crate::upstream::ServerSettings;
use crate::upstream::settings::DEFAULT_NAME;

/// The largest file with a key, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Reads the key that a file holds; blanks and ends of lines around it do not count.
///
/// # Errors
/// Why there is none, without the file's path and content.
pub fn read_api_key_file(path: &Path) -> Result<Secret, String> {
    let bytes = read_bounded(path, MAX_FILE_BYTES)?;
    let text = std::str::from_utf8(&bytes).map_err(|_| "not UTF-8 text".to_owned())?;
    let key = text.trim_start_matches('\u{feff}').trim();
    match key {
        "" => Err("the file is empty".to_owned()),
        _ if key.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Secret::new(key)),
        _ => Err(
            "the file holds more than one key: a key has visible ASCII characters and no blanks"
                .to_owned(),
        ),
    }
}

/// The key of one upstream.
pub(in crate::upstream) struct Key {
    /// The upstream's name.
    name: String,
    current: RwLock<Option<Secret>>,
    file: Option<PathBuf>,
    /// How often it was replaced.
    generation: AtomicUsize,
    redactor: Redactor,
}

impl Key {
    pub(super) fn new(settings: &ServerSettings, redactor: &Redactor) -> Self {
        Self {
            name: settings.name.clone(),
            current: RwLock::new(settings.api_key.clone()),
            file: settings.api_key_file.clone(),
            generation: AtomicUsize::new(0),
            redactor: redactor.clone(),
        }
    }

    /// Whether there is one.
    pub(super) fn is_set(&self) -> bool {
        lock::read(&self.current).is_some()
    }

    /// Gives the key of now to `work`.
    pub(in crate::upstream) fn with<T>(&self, work: impl FnOnce(Option<&Secret>) -> T) -> T {
        work(lock::read(&self.current).as_ref())
    }

    /// Tells this key from those that follow.
    pub(in crate::upstream) fn generation(&self) -> usize {
        self.generation.load(Ordering::Acquire)
    }

    /// The upstream and the setting of the file, for the log.
    fn describe(&self) -> (String, &'static str) {
        match &*self.name {
            DEFAULT_NAME => ("the upstream".to_owned(), "OPENAI_API_KEY_FILE"),
            name => (format!("upstream {name:?}"), "api_key_file"),
        }
    }

    /// Reads the file anew, after the upstream refused the key of this generation; returns whether there is
    /// another key now.
    pub(in crate::upstream) fn renew(&self, refused: usize) -> bool {
        let Some(path) = &self.file else { return false };
        if self.generation() != refused {
            return true;
        }
        let key = match read_api_key_file(path) {
            Ok(key) => key,
            Err(reason) => {
                let (name, setting) = self.describe();
                log::warn!("{name} refused its key, and {setting} has no other: {reason}");
                return false;
            }
        };
        let mut current = lock::write(&self.current);
        if self.generation() != refused {
            return true;
        }
        if current.as_ref() == Some(&key) {
            return false;
        }
        self.redactor.add([key.clone()]);
        *current = Some(key);
        self.generation.fetch_add(1, Ordering::Release);
        let (name, setting) = self.describe();
        log::info!("{name} refused its key: using the new one in {setting}");
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_holds_one_key_and_is_read_again_when_it_was_refused() {
        let folder = std::env::temp_dir().join(format!("key-file-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let path = folder.join("key");
        let write = |text: &[u8]| std::fs::write(&path, text).expect("a file");
        let read = || read_api_key_file(&path).map(|key| key.expose().to_owned());
        assert_eq!(read(), Err("no such file".to_owned()));
        for (text, expected) in [
            (&b"first-key-1\n"[..], Ok("first-key-1")),
            (b"\xef\xbb\xbf  first-key-1 \r\n\r\n", Ok("first-key-1")),
            (b" \n", Err("the file is empty")),
            (b"\xff", Err("not UTF-8 text")),
            (b"first-key-1\nsecond-key-2", Err("the file holds more than one key")),
        ] {
            write(text);
            let found = read();
            let found = found.as_deref().map_err(|error| &error[..error.len().min(32)]);
            assert_eq!(found, expected);
        }
        write(&vec![b'x'; 64 * 1024 + 1]);
        assert_eq!(read(), Err("the file is larger than 64 KiB".to_owned()));

        let redactor = Redactor::default();
        let settings = ServerSettings {
            api_key: Some(Secret::new("first-key-1")),
            api_key_file: Some(path.clone()),
            ..ServerSettings::default()
        };
        let key = Key::new(&settings, &redactor);
        let current = || key.with(|key| key.map(|key| key.expose().to_owned()));
        assert!(!key.renew(0), "the file cannot be used");
        write(b"first-key-1");
        assert!(!key.renew(0), "the same key");
        write(b"second-key-2");
        assert!(key.renew(0) && key.generation() == 1);
        assert_eq!(current().as_deref(), Some("second-key-2"));
        assert!(key.renew(0), "another request had renewed it");
        assert!(!key.renew(1));
        assert_eq!(redactor.redact("it is second-key-2"), "it is ***");
        let _ = std::fs::remove_dir_all(folder);
    }
}
