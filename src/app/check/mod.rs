//! `--check`: describes the configuration, tries the listen address and the state file, and lists the
//! models of the upstreams.
//!
//! `table` tells it to people, `json` to scripts. Never changes the state file and never retries.
//! Invariant: neither holds a key.

mod json;
mod table;

use std::io::ErrorKind;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::{healthcheck, server};
use crate::backends::profiles::GENERIC;
use crate::config::Config;
use crate::error::{Error, Result as ErrorResult};
use crate::models::configured::Target;
use crate::models::store::Store;
use crate::observe::system_error;
use crate::upstream::{Client, RetryEnv, ServerSettings, Settings, Trace};

/// Where to look when something else than an OpenAI-compatible server answers.
const ADVICE: &str = "check host, port and path of the base URL";

/// What was checked.
pub struct Report<'a> {
    config: &'a Config,
    /// Whether a running server of this program has the listen address, or what is wrong with it.
    listen: Result<bool, String>,
    /// The number of models in the state file, or what is wrong with it.
    state: Result<usize, String>,
    /// One for each upstream.
    answers: Vec<Answer<'a>>,
}

/// Tries the addresses of the configuration and the state file, and calls the upstreams.
pub fn run(config: &Config) -> Report<'_> {
    Report {
        config,
        listen: check_listen(config),
        state: check_state(config),
        answers: ask_all(config),
    }
}

impl Report<'_> {
    /// Whether a server with this configuration could start and would reach its upstreams.
    pub fn is_ok(&self) -> bool {
        self.failures() == 0
    }

    /// How many of the checks failed.
    fn failures(&self) -> usize {
        let failed = self.answers.iter().filter(|answer| answer.result.is_err()).count();
        failed + usize::from(self.listen.is_err()) + usize::from(self.state.is_err())
    }

    /// The text for people, without keys.
    pub fn to_text(&self) -> String {
        table::text(self)
    }

    /// The object for scripts, on one line, without keys.
    pub fn to_json(&self) -> String {
        json::text(self)
    }

    /// Whether a list shows a model that the configuration names; `None` if lists are missing.
    fn is_listed(&self, target: &Target) -> Option<bool> {
        let mut is_complete = true;
        for answer in &self.answers {
            if target.upstream.as_ref().is_some_and(|name| *name != answer.server.name) {
                continue;
            }
            match &answer.ids {
                Some(ids) if ids.contains(&target.id) => return Some(true),
                ids => is_complete &= ids.is_some(),
            }
        }
        is_complete.then_some(false)
    }
}

fn check_listen(config: &Config) -> Result<bool, String> {
    match server::check_listen_address(config) {
        Ok(()) => Ok(false),
        Err(error)
            if error.kind() == ErrorKind::AddrInUse && healthcheck::is_proxy_running(config) =>
        {
            Ok(true)
        }
        Err(error) => Err(error.to_string()),
    }
}

fn check_state(config: &Config) -> Result<usize, String> {
    let store = Store::open(config.state_file.clone())?;
    store.check_writable()?;
    Ok(store.snapshot().len())
}

/// What an upstream answered.
struct Answer<'a> {
    server: &'a ServerSettings,
    /// Its family, where its list shows it; or what is wrong.
    result: Result<Option<&'static str>, Failure>,
    /// The ids of its models, where it has a list.
    ids: Option<Vec<String>>,
    milliseconds: u128,
}

/// What is wrong with an upstream.
struct Failure {
    /// The text for people, with where to look.
    text: String,
    /// Whether it answered at all.
    is_reachable: bool,
    /// The status with which it refused.
    status: Option<u16>,
}

impl Failure {
    fn new(error: &Error, server: &ServerSettings) -> Self {
        let text = match error {
            Error::Connect(_) => {
                let reason = system_error::name_host(error.log_text(), server.base_url.host());
                format!("cannot be reached: {reason}")
            }
            Error::UpstreamProtocol(..) => format!("error: {}: {ADVICE}", error.message()),
            error => format!("error: {}", error.message()),
        };
        let status = match error {
            Error::UpstreamStatus { status, .. } => Some(*status),
            _ => None,
        };
        Self { text, is_reachable: !error.is_unreachable(), status }
    }
}

/// Asks all upstreams at the same time.
fn ask_all(config: &Config) -> Vec<Answer<'_>> {
    let settings = config.upstream_settings(&config.redactor());
    thread::scope(|scope| {
        let pairs = config.servers().iter().zip(settings);
        let asked: Vec<_> =
            pairs.map(|(server, settings)| scope.spawn(move || ask(server, settings))).collect();
        // A panic of a thread is one of the check.
        asked.into_iter().map(|it| it.join().expect("an answer")).collect()
    })
}

fn ask(server: &ServerSettings, settings: Settings) -> Answer<'_> {
    let retry_env = RetryEnv { sleep: Box::new(|_| false), jitter: Box::new(|| 0.0) };
    let client = Client::new(settings, Arc::new(retry_env), Arc::default());
    let (mut trace, began) = (Trace::new("check"), Instant::now());
    let mut ids = None;
    let result = match client.list_models_quickly(&mut trace) {
        Ok(listed) => {
            let profile = client.configured_profile.or(listed.profile).unwrap_or(&GENERIC);
            ids = Some(listed.iter().map(|model| model.id.clone()).collect());
            // A fixed list shows nothing of the server.
            let probed =
                server.list.as_ref().map_or(Ok(()), |_| probe(&client, server, &mut trace));
            probed.map(|()| Some(profile.name))
        }
        Err(error @ Error::MissingEndpoint(_)) => {
            // A server without a list has at least chats.
            if client.has_chat_endpoint(&mut trace) {
                Ok(None)
            } else {
                let mut failure = Failure::new(&error, server);
                failure.text.push_str("; it has no chat/completions either: ");
                failure.text.push_str(ADVICE);
                Err(failure)
            }
        }
        Err(error) => Err(Failure::new(&error, server)),
    };
    Answer { server, result, ids, milliseconds: began.elapsed().as_millis() }
}

/// Whether a server that is not asked for its models answers at all, and takes the key.
fn probe(client: &Client, server: &ServerSettings, trace: &mut Trace) -> Result<(), Failure> {
    let is_refusal = |error: &Error| match error {
        Error::ModelNotFound(_) | Error::Unsupported(_) | Error::UpstreamInBand { .. } => true,
        Error::UpstreamStatus { status, .. } => !matches!(status, 401 | 403 | 404 | 405 | 501),
        _ => false,
    };
    let probed: ErrorResult<()> = client.probe_chat(trace);
    probed.or_else(
        |error| if is_refusal(&error) { Ok(()) } else { Err(Failure::new(&error, server)) },
    )
}
