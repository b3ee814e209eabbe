//! `--check`: describes the configuration, reads the state file and lists the upstream's models.
//!
//! Never changes the state file and never retries. Invariant: the report holds no key.

use std::fmt::Write;
use std::sync::Arc;

use crate::backends::profiles::GENERIC;
use crate::config::Config;
use crate::error::Error;
use crate::models::store::Store;
use crate::upstream::{Client, RetryEnv, Trace};

/// Describes the configuration, reads the state file and calls the upstream once. Returns the text for
/// the user, without keys, and whether the state file can be read and the upstream lists its models.
pub fn run(config: &Config) -> (String, bool) {
    let retry_env = RetryEnv { sleep: Box::new(|_| false), jitter: Box::new(|| 0.0) };
    let client = Client::new(config.upstream_settings(), retry_env, Arc::default());
    let mut trace = Trace::new("check");
    let mut text = config.describe();
    for warning in &config.warnings {
        // Writing to a String cannot fail.
        let _ = write!(text, "\nwarning: {warning}");
    }
    let _ = match &config.proxy {
        Some(proxy) => write!(text, "\nproxy: {proxy} ({})", proxy.variable),
        None => write!(text, "\nproxy: none"),
    };
    let state = Store::open(config.state_file.clone());
    let _ = match &state {
        Ok(store) => write!(text, "\nstate: ok, {} models", store.snapshot().len()),
        Err(why) => write!(text, "\nstate: error: {why}"),
    };
    let models = client.list_models_quickly(&mut trace);
    let _ = match &models {
        Ok(listed) => {
            let family = client.configured_profile.or(listed.profile).unwrap_or(&GENERIC).name;
            write!(text, "\nupstream: ok, {} models, family {family}", listed.len())
        }
        Err(Error::Connect(reason)) => write!(text, "\nupstream: cannot be reached: {reason}"),
        Err(error) => write!(text, "\nupstream: error: {}", error.message()),
    };
    for model in models.iter().flat_map(|listed| listed.iter()) {
        let _ = write!(text, "\n  {}", model.id);
    }
    // The names of models can hold a key, too.
    let text = config.redactor().redact(&text).into_owned();
    (text, models.is_ok() && state.is_ok())
}
