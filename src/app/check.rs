//! `--check`: describes the configuration, tries the listen address and the state file, and lists the
//! upstream's models.
//!
//! Never changes the state file and never retries. Invariant: the report holds no key.

use std::fmt::Write;
use std::io::ErrorKind;
use std::sync::Arc;

use super::{healthcheck, server};
use crate::backends::profiles::GENERIC;
use crate::config::Config;
use crate::error::Error;
use crate::models::store::Store;
use crate::upstream::{Client, RetryEnv, Trace};

/// Where to look when something else than an OpenAI-compatible server answers.
const ADVICE: &str = "check host, port and path of the base URL";

/// Describes the configuration, tries its addresses and the state file, and calls the upstream. Returns
/// the text for the user, without keys, and whether a server with this configuration could start and
/// would reach its upstream.
pub fn run(config: &Config) -> (String, bool) {
    let mut text = config.describe();
    for warning in &config.warnings {
        // Writing to a String cannot fail.
        let _ = write!(text, "\nwarning: {warning}");
    }
    let _ = match &config.upstream.proxy {
        Some(proxy) => write!(text, "\nproxy: {proxy} ({})", proxy.variable),
        None => write!(text, "\nproxy: none"),
    };
    let mut is_ok = true;
    for (name, check) in
        [("listen", check_listen as Check), ("state", check_state), ("upstream", check_upstream)]
    {
        let _ = match check(config) {
            Ok(found) => write!(text, "\n{name}: {found}"),
            Err(why) => {
                is_ok = false;
                write!(text, "\n{name}: {why}")
            }
        };
    }
    // The names of models can hold a key, too.
    let text = config.redactor().redact(&text).into_owned();
    (text, is_ok)
}

/// What was found, or what is wrong.
type Check = fn(&Config) -> Result<String, String>;

fn check_listen(config: &Config) -> Result<String, String> {
    match server::check_listen_address(config) {
        Ok(()) => Ok("ok".to_owned()),
        Err(error)
            if error.kind() == ErrorKind::AddrInUse && healthcheck::is_proxy_running(config) =>
        {
            Ok("ok, in use by a running ollama-openai-proxy".to_owned())
        }
        Err(error) => Err(format!("error: {error}")),
    }
}

fn check_state(config: &Config) -> Result<String, String> {
    let store = Store::open(config.state_file.clone()).map_err(|why| format!("error: {why}"))?;
    store.check_writable().map_err(|why| format!("error: {why}"))?;
    Ok(format!("ok, {} models", store.snapshot().len()))
}

fn check_upstream(config: &Config) -> Result<String, String> {
    let retry_env = RetryEnv { sleep: Box::new(|_| false), jitter: Box::new(|| 0.0) };
    let settings = config.upstream_settings(&config.redactor()).remove(0);
    let client = Client::new(settings, Arc::new(retry_env), Arc::default());
    let mut trace = Trace::new("check");
    match client.list_models_quickly(&mut trace) {
        Ok(listed) => {
            let family = client.configured_profile.or(listed.profile).unwrap_or(&GENERIC).name;
            let mut text = format!("ok, {} models, family {family}", listed.len());
            for model in listed.iter() {
                let _ = write!(text, "\n  {}", model.id);
            }
            Ok(text)
        }
        Err(Error::Connect(reason)) => Err(format!("cannot be reached: {reason}")),
        // A server without a list has at least chats.
        Err(error @ Error::MissingEndpoint(_)) if !client.has_chat_endpoint(&mut trace) => {
            Err(format!("error: {}; it has no chat/completions either: {ADVICE}", error.message()))
        }
        Err(Error::MissingEndpoint(_)) => Ok("ok, without a list of models".to_owned()),
        Err(error @ Error::UpstreamProtocol(..)) => {
            Err(format!("error: {}: {ADVICE}", error.message()))
        }
        Err(error) => Err(format!("error: {}", error.message())),
    }
}
