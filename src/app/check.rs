//! `--check`: describes the configuration, tries the listen address and the state file, and lists the
//! models of the upstreams.
//!
//! Never changes the state file and never retries. Invariant: the report holds no key.

use std::collections::HashMap;
use std::fmt::Write;
use std::io::ErrorKind;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use super::{healthcheck, server};
use crate::backends::profiles::GENERIC;
use crate::config::Config;
use crate::error::{Error, Result as ErrorResult};
use crate::models::configured::{ConfiguredModel, Target};
use crate::models::store::Store;
use crate::upstream::{Client, RetryEnv, ServerSettings, Settings, Trace};

/// Where to look when something else than an OpenAI-compatible server answers.
const ADVICE: &str = "check host, port and path of the base URL";

/// Describes the configuration, tries its addresses and the state file, and calls the upstreams. Returns
/// the text for the user, without keys, and whether a server with this configuration could start and
/// would reach its upstreams.
pub fn run(config: &Config) -> (String, bool) {
    let mut text = config.describe();
    for warning in &config.warnings {
        // Writing to a String cannot fail.
        let _ = write!(text, "\nwarning: {warning}");
    }
    if config.upstreams.is_empty() {
        let _ = match &config.upstream.proxy {
            Some(proxy) => write!(text, "\nproxy: {proxy} ({})", proxy.variable),
            None => write!(text, "\nproxy: none"),
        };
    }
    let mut is_ok = true;
    for (name, check) in [("listen", check_listen as Check), ("state", check_state)] {
        let _ = match check(config) {
            Ok(found) => write!(text, "\n{name}: {found}"),
            Err(why) => {
                is_ok = false;
                write!(text, "\n{name}: {why}")
            }
        };
    }
    let answers = ask_all(config);
    is_ok &= answers.iter().all(|answer| answer.result.is_ok());
    for answer in &answers {
        let _ = write!(text, "\n{}", answer.describe(!config.upstreams.is_empty()));
    }
    add_models(&mut text, config, &answers);
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

/// What an upstream answered.
struct Answer<'a> {
    server: &'a ServerSettings,
    /// What was found, or what is wrong.
    result: Result<String, String>,
    /// The ids of its models, where it has a list.
    ids: Option<Vec<String>>,
    milliseconds: u128,
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
            let found = format!("ok, {} models, family {}", listed.len(), profile.name);
            ids = Some(listed.iter().map(|model| model.id.clone()).collect());
            // A fixed list shows nothing of the server.
            let probed = server.list.as_ref().map_or(Ok(()), |_| probe(&client, &mut trace));
            probed.map(|()| found)
        }
        Err(error @ Error::MissingEndpoint(_)) => {
            // A server without a list has at least chats.
            if client.has_chat_endpoint(&mut trace) {
                Ok("ok, without a list of models".to_owned())
            } else {
                let why = error.message();
                Err(format!("error: {why}; it has no chat/completions either: {ADVICE}"))
            }
        }
        Err(error) => Err(describe(&error)),
    };
    Answer { server, result, ids, milliseconds: began.elapsed().as_millis() }
}

/// Whether a server that is not asked for its models answers at all, and takes the key.
fn probe(client: &Client, trace: &mut Trace) -> Result<(), String> {
    let is_refusal = |error: &Error| match error {
        Error::ModelNotFound(_) | Error::Unsupported(_) | Error::UpstreamInBand { .. } => true,
        Error::UpstreamStatus { status, .. } => !matches!(status, 401 | 403 | 404 | 405 | 501),
        _ => false,
    };
    let probed: ErrorResult<()> = client.probe_chat(trace);
    probed.or_else(|error| if is_refusal(&error) { Ok(()) } else { Err(describe(&error)) })
}

/// What is wrong, and where to look.
fn describe(error: &Error) -> String {
    match error {
        Error::Connect(reason) => format!("cannot be reached: {reason}"),
        Error::UpstreamProtocol(..) => format!("error: {}: {ADVICE}", error.message()),
        error => format!("error: {}", error.message()),
    }
}

impl Answer<'_> {
    /// Its line. One of several has a name, an address and a proxy.
    fn describe(&self, is_named: bool) -> String {
        let Self { server, result, milliseconds, .. } = self;
        let (Ok(found) | Err(found)) = result;
        let proxy = server.proxy.as_ref().filter(|_| is_named);
        let proxy = proxy.map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
        let unchecked = if server.tls.verify { "" } else { "; tls_verify is false" };
        let name = if is_named {
            format!(" {} ({}{proxy})", server.name, server.base_url)
        } else {
            String::new()
        };
        format!("upstream{name}: {found}, {milliseconds} ms{unchecked}")
    }

    /// Whether its list shows that it has no such model.
    fn lacks(&self, id: &str) -> bool {
        self.ids.as_ref().is_some_and(|ids| !ids.iter().any(|known| known == id))
    }
}

/// Lists the models: those of the configuration, then each that an upstream lists.
fn add_models(text: &mut String, config: &Config, answers: &[Answer<'_>]) {
    for model in &config.models {
        let _ = write!(text, "\n  {}", describe_model(model, answers));
    }
    let mut known: Vec<(&str, Vec<&str>)> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for answer in answers {
        for id in answer.ids.iter().flatten() {
            let at = *places.entry(id).or_insert(known.len());
            if at == known.len() {
                known.push((id, Vec::new()));
            }
            known[at].1.push(&answer.server.name);
        }
    }
    for (id, names) in known {
        let _ = match config.upstreams.is_empty() {
            false => write!(text, "\n  {id} ({})", names.join(", ")),
            true => write!(text, "\n  {id}"),
        };
    }
}

/// A model of the configuration, what it stands for, and which of that no list shows.
fn describe_model(model: &ConfiguredModel, answers: &[Answer<'_>]) -> String {
    let describe = |target: &Target| {
        let mut asked = answers.iter().filter(|answer| match &target.upstream {
            Some(name) => *name == answer.server.name,
            None => true,
        });
        let mark = if asked.all(|answer| answer.lacks(&target.id)) { " (not listed)" } else { "" };
        match &target.upstream {
            Some(name) => format!("{name}/{}{mark}", target.id),
            None => format!("{}{mark}", target.id),
        }
    };
    let targets: Vec<_> = model.targets.iter().map(describe).collect();
    let hidden = if model.is_hidden { ", hidden" } else { "" };
    format!("{} = {} ({}{hidden})", model.model.name, targets.join(", "), model.strategy.name())
}
