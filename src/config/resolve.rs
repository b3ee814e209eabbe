//! Merges the values of all sources into a [`Config`], and checks what must agree among them.
//!
//! Pure without a time; with one, the configuration file, key files and certificates are read, too.
//! Invariant: no problem and no warning holds a key.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use log::LevelFilter;

use super::file::{self, ConfigFile, Environment, Surroundings};
use super::options::{OPTIONS, OptionSpec};
use super::raw::{self, CommandLine, OptionValue};
use super::{Command, Config, parsers};
use crate::api::wire::small_sort;
use crate::backends::names;
use crate::models::configured::{ConfiguredModel, Strategy, Target};
use crate::models::virtual_model::VirtualModel;
use crate::net::listen_address;
use crate::observe::redact::{Redactor, Secret};
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::base_url;
use crate::upstream::proxy::Proxy;
use crate::upstream::settings::{DEFAULT_NAME, ServerSettings, TlsSettings};
use crate::upstream::{check_tls_files, read_api_key_file};

/// Longest quotation of a bad value, in characters.
const MAX_ECHO_CHARS: usize = 60;

/// An option of the file, and the stronger options that it gives way to if another source sets them.
const STRONGER: &[(&str, &str)] = &[
    ("PROXY_PORT", "OLLAMA_HOST"),
    ("LOG_LEVEL", "OLLAMA_DEBUG"),
    ("OPENAI_API_KEY", "OPENAI_API_KEY_FILE"),
    ("OPENAI_API_KEY_FILE", "OPENAI_API_KEY"),
];

/// Values by option.
type Values = Vec<(&'static OptionSpec, OptionValue)>;

/// Where values come from, beside files.
pub struct Sources<'a> {
    /// The command line.
    pub line: &'a CommandLine,
    /// The environment.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// The pairs of the `.env` file.
    pub dotenv: &'a [(String, String)],
}

impl Sources<'_> {
    /// The health check calls this program only, and a container's check may not be given the keys.
    fn calls_upstream(&self) -> bool {
        self.line.command != Command::Healthcheck
    }

    /// The first of some variables that is set and not empty.
    fn find(&self, names: &[&'static str]) -> Option<(&'static str, String)> {
        raw::find_variable(names, self.env, self.dotenv)
    }

    /// A variable that the file names, as it is.
    fn variable(&self, name: &str) -> Option<String> {
        let in_dotenv = || self.dotenv.iter().rev().find(|(known, _)| known == name);
        (self.env)(name).or_else(|| in_dotenv().map(|(_, value)| value.clone()))
    }

    /// A path with the home folder in place of `~/`.
    fn expand(&self, path: PathBuf) -> PathBuf {
        parsers::expand_home(path, (self.env)("HOME"))
    }
}

/// The configuration, and what is wrong. With the time, files are read.
pub fn resolve(sources: &Sources<'_>, now: Option<SystemTime>) -> (Config, Vec<String>) {
    let mut values = raw::collect_values(&sources.line.values, sources.env, sources.dotenv);
    let mut problems = Vec::new();
    let tls = machine_authorities(sources);
    let mut warnings = Vec::new();
    let mut file = match now.map(|_| read_config_file(&values, &tls, sources)) {
        Some(Err(problem)) => return (Config::default(), vec![problem]),
        Some(Ok(file)) => file,
        None => ConfigFile::default(),
    };
    let options = std::mem::take(&mut file.options);
    merge(&mut values, options);
    if file.has_upstreams {
        warnings.extend(drop_upstream_options(&mut values, sources));
    }
    let mut config = Config { warnings, ..Config::default() };
    config.upstream.tls = TlsSettings { verify: true, ..tls };
    let has_default = sources.calls_upstream() && !file.has_upstreams && file.problems.is_empty();
    apply_values(&mut config, &values, has_default, (&mut problems, &mut file.problems));
    let is_right = problems.is_empty() && file.problems.is_empty();
    expand_paths(&mut config, sources);
    if has_default && is_right {
        match Proxy::select(&config.upstream.base_url, &|names| sources.find(names)) {
            Ok(proxy) => config.upstream.proxy = proxy,
            Err(problem) => problems.push(problem),
        }
        if now.is_some() {
            problems.extend(read_upstream_files(&mut config.upstream));
        }
    }
    finish(&mut config, &mut file, now.unwrap_or(SystemTime::UNIX_EPOCH));
    let redactor = config.redactor();
    small_sort::sort_by_key(&mut file.problems, |(line, _)| *line);
    let file_problems = file.problems.iter().map(|(_, it)| redactor.redact(it).into_owned());
    problems.extend(file_problems);
    (config, problems)
}

/// The configuration file, if one is named.
fn read_config_file(
    values: &Values,
    tls: &TlsSettings,
    sources: &Sources<'_>,
) -> Result<ConfigFile, String> {
    let Some((row, value)) = values.iter().find(|(row, _)| row.variable == "PROXY_CONFIG") else {
        return Ok(ConfigFile::default());
    };
    let about = |why: String| {
        format!("{} is {}: {why}", value.label, quote_value(row, value, &Redactor::default()))
    };
    let path = sources.expand(parsers::parse_path(&value.text).map_err(about)?);
    let find = |name: &str| sources.variable(name);
    let find_proxy = |names: &[&'static str]| sources.find(names);
    let environment = Environment {
        find: &find,
        home: (sources.env)("HOME"),
        surroundings: Surroundings { find_proxy: &find_proxy, tls },
        is_server_only: !sources.calls_upstream(),
    };
    file::read(&path, &environment).map_err(about)
}

/// Adds the options of the file where no other source sets them, in the order of the table.
fn merge(values: &mut Values, options: Values) {
    let find =
        |values: &Values, name: &str| values.iter().position(|(row, _)| row.variable == name);
    for (row, value) in options {
        let is_overridden = STRONGER.iter().any(|(weaker, stronger)| {
            let other = find(values, stronger).filter(|_| *weaker == row.variable);
            // Only values of other sources are there with no line.
            other.is_some_and(|at| {
                let other = &values[at].1;
                other.line.is_none() && (*stronger != "OLLAMA_HOST" || names_port(&other.text))
            })
        });
        if !is_overridden && find(values, row.variable).is_none() {
            values.push((row, value));
        }
    }
    let place = |row: &OptionSpec| OPTIONS.iter().position(|it| it.variable == row.variable);
    small_sort::sort_by_key(values, |(row, _)| place(row).unwrap_or(OPTIONS.len()));
}

/// Whether an address to listen on has a port.
fn names_port(text: &str) -> bool {
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
    bare.len() < text.len() || listen_address::split_port(bare).1.is_some()
}

/// Leaves out the options that describe an upstream, with a warning.
fn drop_upstream_options(values: &mut Values, sources: &Sources<'_>) -> Option<String> {
    let labels: Vec<_> = values
        .iter()
        .filter(|(row, _)| row.is_upstream)
        .map(|(_, value)| value.label.as_str())
        .collect();
    let warning = (!labels.is_empty() && sources.calls_upstream()).then(|| {
        format!(
            "ignored, because the configuration file defines the upstreams: {}",
            labels.join(", ")
        )
    });
    values.retain(|(row, _)| !row.is_upstream);
    warning
}

/// The authorities that the machine trusts, where the variables of OpenSSL name them.
fn machine_authorities(sources: &Sources<'_>) -> TlsSettings {
    let path = |name| sources.find(&[name]).map(|(_, text)| sources.expand(PathBuf::from(text)));
    let (file, folder) = (path("SSL_CERT_FILE"), path("SSL_CERT_DIR"));
    TlsSettings { system_ca_file: file, system_ca_dir: folder, ..TlsSettings::default() }
}

/// Replaces `~/` in all paths, and finds the state file.
fn expand_paths(config: &mut Config, sources: &Sources<'_>) {
    let tls = &mut config.upstream.tls;
    let files = [&mut tls.ca_file, &mut tls.client_cert_file, &mut tls.client_key_file];
    let own = [
        &mut config.upstream.api_key_file,
        &mut config.proxy_api_keys_file,
        &mut config.config_file,
    ];
    for path in files.into_iter().chain(own).chain([&mut config.state_file]) {
        *path = path.take().map(|path| sources.expand(path));
    }
    if config.state_file.is_none() {
        config.state_file = parsers::default_state_path(sources.env);
    }
}

/// Reads the key of the environment's upstream, and checks its certificates.
fn read_upstream_files(server: &mut ServerSettings) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(path) = &server.api_key_file {
        match read_api_key_file(path) {
            Ok(key) => server.api_key = Some(key),
            Err(why) => problems.push(format!("OPENAI_API_KEY_FILE: {why}")),
        }
    }
    let tls = &server.tls;
    if tls.ca_file.is_some() || tls.client_cert_file.is_some() || tls.client_key_file.is_some() {
        let faults = check_tls_files(tls).into_iter();
        let name = |setting: &str| format!("UPSTREAM_{}", setting.to_ascii_uppercase());
        problems.extend(faults.map(|(setting, why)| format!("{}: {why}", name(setting))));
    }
    problems
}

/// Takes over what the file defines, and adds the aliases.
fn finish(config: &mut Config, file: &mut ConfigFile, now: SystemTime) {
    config.upstreams = std::mem::take(&mut file.upstreams);
    config.models = std::mem::take(&mut file.models);
    config.file_secrets = std::mem::take(&mut file.secrets);
    if let Err(why) = config.proxy_api_keys.extend(std::mem::take(&mut file.keys)) {
        file.problems.push((0, format!("[[key]]: {why} (PROXY_API_KEYS)")));
    }
    for (name, id) in &config.model_aliases {
        let key = names::canonical_key(name);
        let count = config.models.len();
        config.models.retain(|model| names::canonical_key(&model.model.name) != key);
        if config.models.len() < count {
            let warning =
                format!("MODEL_ALIASES replaces the model {name:?} of the configuration file");
            config.warnings.push(warning);
        }
        let servers: &[_] = match config.upstreams.as_slice() {
            [] => std::slice::from_ref(&config.upstream),
            servers => servers,
        };
        let model = alias(name, id, servers, now);
        config.models.push(model);
    }
    let unverified = config.servers().iter().filter(|server| !server.tls.verify);
    let warning = |server: &ServerSettings| {
        let (name, setting) = match &*server.name {
            DEFAULT_NAME => ("the upstream".to_owned(), "UPSTREAM_TLS_VERIFY"),
            name => (format!("upstream {name:?}"), "tls_verify"),
        };
        format!("the certificate of {name} is not checked ({setting} is false)")
    };
    let warnings: Vec<_> = unverified.map(warning).collect();
    config.warnings.extend(warnings);
}

/// Another name for a model.
fn alias(name: &str, id: &str, servers: &[ServerSettings], now: SystemTime) -> ConfiguredModel {
    let is_server = |name: &str| servers.iter().any(|server| server.name == name);
    let target = match id
        .split_once('/')
        .filter(|(upstream, id)| is_server(upstream) && !id.is_empty())
    {
        Some((upstream, id)) => Target { upstream: Some(upstream.to_owned()), id: id.to_owned() },
        None => Target { upstream: None, id: id.to_owned() },
    };
    ConfiguredModel {
        model: Arc::new(VirtualModel::alias(name, id, now)),
        targets: vec![target],
        strategy: Strategy::default(),
        context_length: None,
        capabilities: None,
        is_hidden: false,
    }
}

/// Applies the values, in the order of the table. A bad value leaves its default. Problems with values of
/// the file have a line.
fn apply_values(
    config: &mut Config,
    values: &Values,
    has_default: bool,
    (problems, file_problems): (&mut Vec<String>, &mut Vec<(usize, String)>),
) {
    let redactor = Redactor::new(secret_values(values));
    let mut rejected = Vec::new();
    for (row, value) in values {
        let about = || format!("{} is {}", value.label, quote_value(row, value, &redactor));
        match (row.apply)(config, &value.text) {
            Ok(None) => {}
            Ok(Some(warning)) => config.warnings.push(format!("{}: {warning}", about())),
            Err(allowed) => {
                let problem = format!("{}: {allowed}", about());
                match value.line {
                    Some(line) => file_problems.push((line, problem)),
                    None => problems.push(problem),
                }
                rejected.push((row.variable, value.is_flag));
            }
        }
    }
    config.warnings.extend(body_log_warning(config));
    let is_rejected = |variable| rejected.iter().any(|(name, _)| *name == variable);
    // A wrong command line is reported without the missing key.
    let is_readable =
        !is_rejected("OPENAI_API_BASE_URL") && !rejected.iter().any(|(_, is_flag)| *is_flag);
    if has_default && is_readable {
        problems.extend(missing_key_problem(values, config));
        problems.extend(two_keys_problem(config));
    }
    if !is_rejected("RETRY_INITIAL_MS") && !is_rejected("RETRY_MAX_MS") {
        problems.extend(retry_delay_problem(config));
    }
}

/// The values of secret rows, whole and in their comma-separated parts.
fn secret_values(values: &Values) -> impl Iterator<Item = Secret> {
    let secret = values.iter().filter(|(row, _)| row.secret).map(|(_, value)| value.text.as_str());
    // Short parts are no keys, and would mask ordinary words.
    secret.flat_map(|text| {
        let parts = text.split(',').map(str::trim).filter(|part| part.len() > 5);
        std::iter::once(text).chain(parts).map(Secret::new)
    })
}

/// The warning about `LOG_BODIES`.
fn body_log_warning(config: &Config) -> Option<String> {
    let text = if config.log_level == LevelFilter::Trace {
        "LOG_BODIES is on: prompts and responses are logged"
    } else {
        "LOG_BODIES has no effect unless LOG_LEVEL is trace"
    };
    config.log_bodies.then(|| text.to_owned())
}

/// api.openai.com needs a key. A malformed key is a problem of its own option.
fn missing_key_problem(values: &Values, config: &Config) -> Option<String> {
    let is_key = |name: &str| matches!(name, "OPENAI_API_KEY" | "OPENAI_API_KEY_FILE");
    let has_key = values.iter().any(|(row, _)| is_key(row.variable))
        || config.upstream.pass_client_key
        || has_authorization(config);
    (config.upstream.base_url.is_openai() && !has_key).then(|| {
        "OPENAI_API_KEY is not set and api.openai.com needs it: run `export OPENAI_API_KEY=...` \
         with your key, or name another server with OPENAI_API_BASE_URL"
            .to_owned()
    })
}

/// A request has one `Authorization`. Which of two was meant cannot be known, and the wrong one must not
/// be sent.
fn two_keys_problem(config: &Config) -> Option<String> {
    let ServerSettings { api_key, api_key_file, base_url, .. } = &config.upstream;
    let set = [
        (api_key.is_some(), "OPENAI_API_KEY"),
        (api_key_file.is_some(), "OPENAI_API_KEY_FILE"),
        (base_url.auth().is_some(), "a user name in OPENAI_API_BASE_URL"),
        (has_authorization(config), "Authorization in UPSTREAM_HEADERS"),
    ];
    let mut set = set.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| name);
    let (first, second) = (set.next()?, set.next()?);
    Some(format!(
        "{first} and {second} are both set, and only one of them can be sent: remove one of them"
    ))
}

/// Whether a header of each request is the key.
fn has_authorization(config: &Config) -> bool {
    config.upstream.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"))
}

/// The longest delay must not be below the first one.
fn retry_delay_problem(config: &Config) -> Option<String> {
    let RetryPolicy { initial_delay: initial, max_delay: cap, .. } = config.retry;
    (cap < initial).then(|| {
        format!(
            "RETRY_MAX_MS ({}) must not be below RETRY_INITIAL_MS ({})",
            cap.as_millis(),
            initial.as_millis()
        )
    })
}

/// A value for an error text: on one line, not too long, and without secrets.
fn quote_value(row: &OptionSpec, value: &OptionValue, redactor: &Redactor) -> String {
    if row.secret || value.is_masked {
        return "***".to_owned();
    }
    let masked = base_url::mask_url(&value.text);
    let clean = redactor.redact_value(&masked);
    match clean.char_indices().nth(MAX_ECHO_CHARS) {
        Some((end, _)) => format!("{:?}...", &clean[..end]),
        None => format!("{clean:?}"),
    }
}

#[cfg(test)]
mod tests;
