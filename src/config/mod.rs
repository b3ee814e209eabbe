//! Reads flags, environment, `./.env` and the file of client keys into a checked [`Config`].
//!
//! Two steps: `raw.rs` collects the text of each option, and the rows of `options.rs` turn the text
//! into fields with the functions of `parsers.rs`. Problems are reported together, one line each;
//! a malformed command line is reported alone. Only [`load`] reads anything; this room never prints,
//! changes a file or ends the process.
//! Invariant: no error, warning, `Debug` output or description holds a key, nor a user name, a
//! password or a query's value from a URL.
//!
//! # Sources
//!
//! Flags override the environment, which overrides a `.env` file in the working directory. An empty
//! value counts as none. Where Ollama falls back to a default (`OLLAMA_KEEP_ALIVE`,
//! `OLLAMA_MAX_QUEUE`, `OLLAMA_CONTEXT_LENGTH`, the port in `OLLAMA_HOST`), a wrong value is a
//! warning in the log, and the default applies. Variables of Ollama that have no meaning here are
//! ignored; the README lists them.

mod dotenv;
mod key_file;
mod options;
mod parsers;
mod raw;

use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use log::LevelFilter;

#[doc(hidden)] // For tests that know no folder.
pub use self::dotenv::parse as dotenv;
#[doc(hidden)] // For the test of the README's table.
pub use self::options::OPTIONS;
pub use self::options::{help, version};

use self::options::OptionSpec;
use self::raw::{CommandLine, OptionValue};
use crate::api::wire::keep_alive::KeepAlive;
use crate::handlers;
use crate::http::client_keys::ClientKeys;
use crate::http::cors::CorsPolicy;
use crate::models::configured::ConfiguredModel;
use crate::net::connection_guard::Limits;
use crate::observe::redact::{Redactor, Secret};
use crate::upstream;
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::base_url;
use crate::upstream::base_url::BaseUrl;
use crate::upstream::breaker;
use crate::upstream::proxy::Proxy;
use crate::upstream::repair::memory::EXPERIMENT_INTERVAL;
use crate::upstream::settings::ServerSettings;

/// The file in the working directory that may set variables.
const DOTENV_FILE: &str = ".env";

/// Longest quotation of a bad value, in characters.
const MAX_ECHO_CHARS: usize = 60;

/// All settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The upstream that the environment defines, if `upstreams` is empty.
    pub upstream: ServerSettings,
    /// The upstreams of the file, in its order.
    pub upstreams: Vec<ServerSettings>,
    /// The models of the file and of `MODEL_ALIASES`.
    pub models: Vec<ConfiguredModel>,
    /// The address or name to listen on; empty for all interfaces.
    pub host: String,
    /// The port to listen on; 0 for any free one.
    pub port: u16,
    /// The origins that CORS allows.
    pub origins: CorsPolicy,
    /// The client keys, with those of the file once it is read; without any, no key is needed.
    pub proxy_api_keys: ClientKeys,
    /// The file with more client keys.
    pub proxy_api_keys_file: Option<PathBuf>,
    /// Longest time without data from the upstream; above zero.
    pub request_timeout: Duration,
    /// The log level.
    pub log_level: LevelFilter,
    /// True if bodies are logged at level trace.
    pub log_bodies: bool,
    /// Requests handled concurrently; at least one.
    pub workers: usize,
    /// Most requests that wait for a worker.
    pub max_queue: usize,
    /// Limits of connections; `request_timeout` overrides the time for a body.
    pub connection_limits: Limits,
    /// Most concurrent requests of one address; above zero.
    pub max_per_client: Option<usize>,
    /// The largest request body; above zero.
    pub max_body_bytes: usize,
    /// The retry policy of upstream calls; `max_delay` is not below `initial_delay`.
    pub retry: RetryPolicy,
    /// Settings of the circuit breaker; only tests change them.
    pub breaker: breaker::Settings,
    /// The time between two requests of a model that try to do without one of its repairs; only tests
    /// change it.
    pub experiment_interval: Duration,
    /// When silent streams show that they are alive; only tests change it.
    pub keepalive: handlers::KeepaliveSettings,
    /// How long the upstream's model list is cached; zero disables the cache.
    pub models_ttl: Duration,
    /// How long a model is shown as loaded if the request does not say.
    pub keep_alive: KeepAlive,
    /// The context length of models whose upstream reports none; `None` for the built-in one.
    pub context_length: Option<u64>,
    /// The file that stores virtual models; `None` to keep them in memory only.
    pub state_file: Option<PathBuf>,
    /// Time that running requests get to finish on shutdown.
    pub shutdown_grace: Duration,
    /// Warnings for the log, about values that are accepted.
    pub warnings: Vec<String>,
}

/// What the command line tells the program to do; of several, the last one here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    /// Serve.
    #[default]
    Run,
    /// Check the health of the server that runs with this configuration and exit.
    Healthcheck,
    /// Check the configuration and exit.
    Check,
    /// Print [`version`].
    Version,
    /// Print [`help`].
    Help,
}

/// All problems of a configuration. `Display` writes one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// One line each, with the option and what is expected; never empty.
    pub problems: Vec<String>,
}

/// Builds the configuration from `args` (without the program's name), the environment, `./.env` and
/// the file of client keys, each time anew. A missing `.env` file, or a folder of that name, is ignored. Help and
/// version ignore all problems and get the default configuration.
///
/// # Errors
/// The problems of the command line, or else those of all sources together.
pub fn load(args: impl IntoIterator<Item = OsString>) -> Result<(Command, Config), ConfigError> {
    let line = parse_args(args)?;
    if line.command >= Command::Version {
        return Ok((line.command, Config::default()));
    }
    // Bytes that are not UTF-8 become U+FFFD, which no option accepts.
    let env = |name: &str| Some(std::env::var_os(name)?.to_string_lossy().into_owned());
    let (dotenv, mut problems) = read_dotenv();
    match resolve(&line, &env, &dotenv) {
        Ok(mut config) => {
            // The health check sends no key.
            if line.command != Command::Healthcheck {
                problems.extend(key_file::finalize(&mut config).err());
            }
            if problems.is_empty() {
                return Ok((line.command, config));
            }
        }
        Err(error) => problems.extend(error.problems),
    }
    Err(ConfigError { problems })
}

/// The pure part of [`load`]: `args` override `env`, which overrides the pairs of the `.env` file.
/// Does not read the file of client keys.
///
/// # Errors
/// The problems of the command line, or else those of all values together.
pub fn from_sources(
    args: impl IntoIterator<Item = OsString>,
    env: &dyn Fn(&str) -> Option<String>,
    dotenv: &[(String, String)],
) -> Result<(Command, Config), ConfigError> {
    let line = parse_args(args)?;
    let config = match line.command {
        Command::Help | Command::Version => Config::default(),
        _ => resolve(&line, env, dotenv)?,
    };
    Ok((line.command, config))
}

/// The command line, unless it is malformed; help and version ignore that.
fn parse_args(args: impl IntoIterator<Item = OsString>) -> Result<CommandLine, ConfigError> {
    let line = CommandLine::parse(args);
    if line.command >= Command::Version || line.problems.is_empty() {
        Ok(line)
    } else {
        Err(ConfigError { problems: line.problems })
    }
}

/// The pairs of the `.env` file, and its problems.
fn read_dotenv() -> (Vec<(String, String)>, Vec<String>) {
    match fs::read(DOTENV_FILE) {
        Ok(bytes) => dotenv::parse(&bytes),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::IsADirectory) => {
            (Vec::new(), Vec::new())
        }
        Err(error) => (Vec::new(), vec![format!("cannot read {DOTENV_FILE}: {}", error.kind())]),
    }
}

/// The configuration from the values of all sources.
fn resolve(
    line: &CommandLine,
    env: &dyn Fn(&str) -> Option<String>,
    dotenv: &[(String, String)],
) -> Result<Config, ConfigError> {
    let values = raw::collect_values(&line.values, env, dotenv);
    // The health check calls this program only, and a container's check may not be given the key.
    let calls_upstream = line.command != Command::Healthcheck;
    let (mut config, mut problems) = apply_values(&values, calls_upstream);
    if calls_upstream && problems.is_empty() {
        let find = |names: &[&'static str]| raw::find_variable(names, env, dotenv);
        match Proxy::select(&config.upstream.base_url, &find) {
            Ok(proxy) => config.upstream.proxy = proxy,
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(ConfigError { problems });
    }
    let expand = |path| parsers::expand_home(path, env("HOME"));
    config.proxy_api_keys_file = config.proxy_api_keys_file.map(expand);
    config.state_file = config.state_file.map(expand).or_else(|| parsers::default_state_path(env));
    Ok(config)
}

impl Config {
    /// The defaults for an upstream, listening on a free port of 127.0.0.1, without a key and without
    /// a state file: for tests, and for programs that embed the server.
    ///
    /// # Errors
    /// What to write instead, if `url` is no base URL.
    pub fn for_base_url(url: &str) -> Result<Self, ConfigError> {
        match BaseUrl::parse(url) {
            Ok(base_url) => {
                let upstream = ServerSettings { base_url, ..ServerSettings::default() };
                Ok(Self { upstream, port: 0, ..Self::default() })
            }
            Err(reason) => Err(ConfigError { problems: vec![reason] }),
        }
    }

    /// The address to bind. No host means all interfaces, which is `::`, IPv4 included; a machine
    /// without IPv6 needs `0.0.0.0` instead.
    pub fn listen_addr(&self) -> (String, u16) {
        let host = if self.host.is_empty() { "::" } else { &self.host };
        (host.to_owned(), self.port)
    }

    /// Masks every configured key and password.
    pub fn redactor(&self) -> Redactor {
        let servers = [&self.upstream].into_iter().chain(&self.upstreams);
        let client_keys = self.proxy_api_keys.secrets().cloned();
        Redactor::new(servers.flat_map(ServerSettings::secrets).chain(client_keys))
    }

    /// The upstreams: those of the file, or else the one of the environment.
    pub fn servers(&self) -> &[ServerSettings] {
        if self.upstreams.is_empty() {
            std::slice::from_ref(&self.upstream)
        } else {
            &self.upstreams
        }
    }

    /// The settings of each upstream.
    pub fn upstream_settings(&self, redactor: &Redactor) -> Vec<upstream::Settings> {
        let settings = |server: &ServerSettings| upstream::Settings {
            server: server.clone(),
            request_timeout: server.timeout.unwrap_or(self.request_timeout),
            workers: self.workers,
            retry: self.retry,
            breaker: self.breaker,
            experiment_interval: self.experiment_interval,
            models_ttl: self.models_ttl,
            log_bodies: self.log_bodies,
            redactor: redactor.clone(),
        };
        self.servers().iter().map(settings).collect()
    }

    /// The settings of the routes.
    pub fn handler_settings(&self, max_kept_bytes: usize) -> handlers::Settings {
        handlers::Settings {
            base_url: self.servers()[0].base_url.to_string(),
            max_body_bytes: self.max_body_bytes,
            keep_alive: self.keep_alive,
            context_length: self.context_length,
            keepalive: self.keepalive,
            max_kept_bytes,
            max_waiting: self.max_queue,
        }
    }

    /// The options that a new configuration changes and that only a restart applies.
    pub fn unreloadable_changes(&self, new: &Self) -> Vec<&'static str> {
        let is_changed =
            |row: &&OptionSpec| row.needs_restart && (row.show)(self) != (row.show)(new);
        OPTIONS.iter().filter(is_changed).map(|row| row.variable).collect()
    }

    /// The effective values, `VARIABLE=value` on a line each, in the form that the sources take.
    /// Keys and the secrets of a URL are masked.
    pub fn describe(&self) -> String {
        let line = |row: &OptionSpec| format!("{}={}", row.variable, (row.show)(self));
        OPTIONS.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            upstream: ServerSettings::default(),
            upstreams: Vec::new(),
            models: Vec::new(),
            host: "127.0.0.1".to_owned(),
            port: 11434,
            origins: CorsPolicy::default(),
            proxy_api_keys: ClientKeys::default(),
            proxy_api_keys_file: None,
            request_timeout: Duration::from_secs(300),
            log_level: LevelFilter::Info,
            log_bodies: false,
            workers: 256,
            max_queue: 512,
            connection_limits: Limits::default(),
            max_per_client: None,
            max_body_bytes: 100 << 20,
            retry: RetryPolicy::default(),
            breaker: breaker::Settings::default(),
            experiment_interval: EXPERIMENT_INTERVAL,
            keepalive: handlers::KeepaliveSettings::default(),
            models_ttl: Duration::from_secs(30),
            keep_alive: KeepAlive::For(Duration::from_secs(300)),
            context_length: None,
            state_file: None,
            shutdown_grace: Duration::from_secs(30),
            warnings: Vec::new(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl StdError for ConfigError {}

/// Applies the values, in table order, to the defaults. A bad value leaves its default.
fn apply_values(
    values: &[(&OptionSpec, OptionValue)],
    calls_upstream: bool,
) -> (Config, Vec<String>) {
    let redactor = Redactor::new(secret_values(values));
    let mut config = Config::default();
    let mut problems = Vec::new();
    let mut rejected = Vec::new();
    for (row, value) in values {
        let about = || format!("{} is {}", value.label, quote_value(row, value, &redactor));
        match (row.apply)(&mut config, &value.text) {
            Ok(None) => {}
            Ok(Some(warning)) => config.warnings.push(format!("{}: {warning}", about())),
            Err(allowed) => {
                problems.push(format!("{}: {allowed}", about()));
                rejected.push((row.variable, value.is_flag));
            }
        }
    }
    config.warnings.extend(body_log_warning(&config));
    let is_rejected = |variable| rejected.iter().any(|(name, _)| *name == variable);
    // A wrong command line is reported without the missing key.
    let is_readable =
        !is_rejected("OPENAI_API_BASE_URL") && !rejected.iter().any(|(_, is_flag)| *is_flag);
    if calls_upstream && is_readable {
        problems.extend(missing_key_problem(values, &config));
        problems.extend(two_keys_problem(&config));
    }
    if !is_rejected("RETRY_INITIAL_MS") && !is_rejected("RETRY_MAX_MS") {
        problems.extend(retry_delay_problem(&config));
    }
    (config, problems)
}

/// The values of secret rows, whole and in their comma-separated parts.
fn secret_values(values: &[(&OptionSpec, OptionValue)]) -> impl Iterator<Item = Secret> {
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
fn missing_key_problem(values: &[(&OptionSpec, OptionValue)], config: &Config) -> Option<String> {
    let has_key = values.iter().any(|(row, _)| row.variable == "OPENAI_API_KEY");
    (config.upstream.base_url.is_openai() && !has_key).then(|| {
        "OPENAI_API_KEY is not set and api.openai.com needs it: run `export OPENAI_API_KEY=...` \
         with your key, or name another server with OPENAI_API_BASE_URL"
            .to_owned()
    })
}

/// A request has one `Authorization`. Which of two was meant cannot be known, and the wrong one must not
/// be sent.
fn two_keys_problem(config: &Config) -> Option<String> {
    (config.upstream.api_key.is_some() && config.upstream.base_url.auth().is_some()).then(|| {
        "OPENAI_API_KEY and a user name in OPENAI_API_BASE_URL are both set, and only one of them can \
         be sent: remove one of them"
            .to_owned()
    })
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
    if row.secret {
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
mod tests {
    use super::*;

    type Pairs<'a> = &'a [(&'a str, &'a str)];

    fn sources(
        args: &[&str],
        env: Pairs<'_>,
        dotenv: Pairs<'_>,
    ) -> Result<(Command, Config), ConfigError> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let dotenv: Vec<_> = dotenv.iter().map(own).collect();
        let env =
            |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
        from_sources(args.iter().map(OsString::from), &env, &dotenv)
    }

    /// The configuration for some upstream that needs no key.
    #[track_caller]
    fn config(args: &[&str], env: Pairs<'_>, dotenv: Pairs<'_>) -> Config {
        let base = [("OPENAI_BASE_URL", "http://upstream.test")];
        match sources(args, env, &[dotenv, &base].concat()) {
            Ok((Command::Run, config)) => config,
            other => panic!("{args:?} {env:?} {dotenv:?}: {other:?}"),
        }
    }

    /// The value of a variable in the description.
    fn shown(config: &Config, variable: &str) -> String {
        let text = config.describe();
        let value = |line: &str| Some(line.strip_prefix(variable)?.strip_prefix('=')?.to_owned());
        text.lines().find_map(value).expect("every variable is described")
    }

    #[track_caller]
    fn problems(args: &[&str], env: Pairs<'_>, dotenv: Pairs<'_>) -> Vec<String> {
        sources(args, env, dotenv).expect_err("something is wrong").problems
    }

    /// Four values of one option: the three sources in order of strength, then the default.
    #[track_caller]
    fn check_precedence(variable: &str, flag: &str, values: [&str; 4]) {
        let [in_flag, in_env, in_dotenv, default] = values;
        let args: &[&str] = &[flag, in_flag];
        let env: Pairs<'_> = &[(variable, in_env)];
        let dotenv: Pairs<'_> = &[(variable, in_dotenv)];
        let check = |config: Config, expected| assert_eq!(shown(&config, variable), expected);
        check(config(args, env, dotenv), in_flag);
        check(config(&[], env, dotenv), in_env);
        check(config(&[], &[], dotenv), in_dotenv);
        check(config(&[], &[], &[]), default);
        check(config(&[flag, ""], &[(variable, " \"\" ")], dotenv), in_dotenv);
    }

    #[test]
    fn flags_win_over_environment_over_dotenv_over_defaults() {
        check_precedence("PROXY_PORT", "--port", ["1", "2", "3", "11434"]);
        check_precedence("OLLAMA_HOST", "--host", ["a:1", "b:2", "[::1]:3", "127.0.0.1:11434"]);
        let origins = ["http://a", "http://b,*", "app://*", ""];
        check_precedence("OLLAMA_ORIGINS", "--origins", origins);
        let files = ["/a", "/b", "/c", ""];
        check_precedence("PROXY_API_KEYS_FILE", "--proxy-api-keys-file", files);
        check_precedence("LOG_BODIES", "--log-bodies", ["true", "false", "true", "false"]);
        check_precedence("UPSTREAM_PROFILE", "--profile", ["vllm", "tgi", "generic", "auto"]);
        check_precedence("REQUEST_TIMEOUT", "--request-timeout", ["1.5", "2", "3", "300"]);
        check_precedence("LOG_LEVEL", "--log-level", ["TRACE", "ERROR", "WARN", "INFO"]);
        check_precedence("MAX_BODY_BYTES", "--max-body-bytes", ["1", "2", "3", "104857600"]);
        check_precedence("RETRY_MAX_MS", "--retry-max-ms", ["2001", "2002", "2003", "30000"]);
        check_precedence("OLLAMA_KEEP_ALIVE", "--keep-alive", ["-1", "2s", "3s", "300s"]);
        check_precedence("OLLAMA_CONTEXT_LENGTH", "--context-length", ["1", "2", "3", "0"]);
    }

    #[test]
    fn virtual_models_are_kept_in_the_user_s_data_unless_said_otherwise() {
        let check = |env: Pairs<'_>, expected: Option<&str>| {
            let found = config(&[], env, &[]).state_file;
            assert_eq!(found.as_deref(), expected.map(std::path::Path::new), "{env:?}");
        };
        let (home, data) = (("HOME", "/h"), ("XDG_DATA_HOME", "/d"));
        check(&[], None);
        let in_home = "/h/.local/share/ollama-openai-proxy/state.json";
        check(&[home], Some(in_home));
        let in_data = "/d/ollama-openai-proxy/state.json";
        check(&[home, data], Some(in_data));
        check(&[home, ("XDG_DATA_HOME", "relative")], Some(in_home));
        check(&[home, ("PROXY_STATE", "/s/x.json")], Some("/s/x.json"));
        check(&[home, ("PROXY_STATE", "~/x.json")], Some("/h/x.json"));
        check(&[("PROXY_STATE", "é.json")], Some("é.json"));
        check(&[data, ("PROXY_STATE", parsers::DEFAULT_STATE_FILE)], Some(in_data));
        let told = problems(&["--state=a\nb", "--api-key=k"], &[], &[]);
        let expected = "expected the path of a file, such as /var/lib/proxy/state.json";
        assert!(told[0].ends_with(expected));
        assert_eq!(Config::for_base_url("http://h").expect("a URL").state_file, None);
    }

    #[test]
    fn the_last_value_that_is_not_empty_wins_within_a_source() {
        let port = |args: &[&str], dotenv: Pairs<'_>| config(args, &[], dotenv).port;
        assert_eq!(port(&["--port=1", "--port=2", "--port="], &[]), 2);
        assert_eq!(port(&[], &[("PROXY_PORT", "1"), ("PROXY_PORT", "2"), ("PROXY_PORT", "")]), 2);
    }

    #[test]
    fn the_first_wait_may_be_the_longest_and_zero_tokens_are_none() {
        let config = config(&["--retry-max-ms=1000", "--context-length=0"], &[], &[]);
        assert_eq!(config.retry.max_delay, config.retry.initial_delay);
        assert_eq!(config.context_length, None);
    }

    #[test]
    fn the_base_url_has_an_alias_that_is_weaker_only_within_its_source() {
        let both: Pairs<'_> =
            &[("OPENAI_BASE_URL", "http://b"), ("OPENAI_API_BASE_URL", "http://a")];
        assert_eq!(config(&[], both, &[]).upstream.base_url.host(), "a");
        assert_eq!(config(&[], &both[..1], &both[1..]).upstream.base_url.host(), "b");
        assert_eq!(config(&["--base-url", "http://c"], both, both).upstream.base_url.host(), "c");
    }

    #[test]
    fn the_context_length_has_a_second_name() {
        let both: Pairs<'_> = &[("MODEL_CONTEXT_LENGTH", "1"), ("OLLAMA_CONTEXT_LENGTH", "2")];
        assert_eq!(config(&[], &both[..1], &[]).context_length, Some(1));
        assert_eq!(config(&[], both, &[]).context_length, Some(2));
        assert_eq!(config(&[], &both[..1], &both[1..]).context_length, Some(1));
    }

    #[test]
    fn a_family_that_nobody_knows_is_an_error_that_lists_the_names() {
        let told = problems(&["--profile=lama", "--api-key=k"], &[], &[]);
        assert_eq!(told.len(), 1);
        assert!(told[0].starts_with("--profile is \"lama\": expected auto or one of "), "{told:?}");
        assert!(told[0].contains(", llamacpp,") && told[0].ends_with(", generic"), "{told:?}");
    }

    #[test]
    fn a_given_port_overrides_the_one_of_the_host() {
        let check = |args: &[&str], env: Pairs<'_>, dotenv: Pairs<'_>, host: &str, port| {
            let config = config(args, env, dotenv);
            assert_eq!((config.host.as_str(), config.port), (host, port), "{args:?} {env:?}");
        };
        check(&[], &[("OLLAMA_HOST", "0.0.0.0:5"), ("PROXY_PORT", "6")], &[], "0.0.0.0", 6);
        check(&["--host", "a:5"], &[], &[("PROXY_PORT", "6")], "a", 6);
        check(&["--port=7", "--host=http://a"], &[], &[], "a", 7);
        check(&["--host=http://a"], &[], &[], "a", 80);
        check(&[], &[("OLLAMA_HOST", ":0")], &[], "", 0);
        check(&[], &[("PROXY_PORT", "6")], &[], "127.0.0.1", 6);
    }

    #[test]
    fn the_log_level_is_stronger_than_ollamas_debug_switch() {
        let level = |env: Pairs<'_>, dotenv: Pairs<'_>| config(&[], env, dotenv).log_level;
        assert_eq!(level(&[("OLLAMA_DEBUG", "1")], &[]), LevelFilter::Debug);
        assert_eq!(level(&[], &[("OLLAMA_DEBUG", "2")]), LevelFilter::Trace);
        assert_eq!(level(&[("OLLAMA_DEBUG", "2")], &[("LOG_LEVEL", "warn")]), LevelFilter::Warn);
        assert_eq!(level(&[("OLLAMA_DEBUG", "")], &[]), LevelFilter::Info);
    }

    #[test]
    fn all_problems_are_told_together_each_with_its_name_value_and_what_is_allowed() {
        let told = problems(
            &["--port", "abc", "--workers=0", "--retry-max-ms=500"],
            &[("RETRY_MAX", "11"), ("OPENAI_BASE_URL", "localhost:8080/v1")],
            &[("REQUEST_TIMEOUT", "5m\n")],
        );
        assert_eq!(
            told,
            [
                "OPENAI_BASE_URL is \"localhost:8080/v1\": must start with http:// or https://, as \
                 in https://api.openai.com/v1 or http://localhost:8080/v1",
                "--port is \"abc\": expected a whole number from 0 to 65535",
                "REQUEST_TIMEOUT in .env is \"5m\": expected seconds above 0 and up to 86400, such \
                 as 300 or 0.5",
                "--workers is \"0\": expected a whole number from 1 to 4096",
                "RETRY_MAX is \"11\": expected a whole number from 0 to 10",
                "RETRY_MAX_MS (500) must not be below RETRY_INITIAL_MS (1000)",
            ]
        );
        let error = ConfigError { problems: told };
        assert_eq!(error.to_string().lines().count(), 6);
        // A malformed command line is reported alone, without what follows from it.
        let told = problems(&["--port", "abc"], &[], &[]);
        assert_eq!(told, ["--port is \"abc\": expected a whole number from 0 to 65535"]);
        let told = problems(&["--port", "abc", "--nonsense", "--check=1"], &[], &[]);
        assert_eq!(told, ["unknown option --nonsense (see --help)", "--check takes no value"]);
    }

    #[test]
    fn every_row_refuses_or_survives_text_that_was_not_utf8() {
        for row in OPTIONS.iter().filter(|row| row.default_text() != "false") {
            let env: Pairs<'_> = &[(row.variable, "1\u{fffd}")];
            match sources(&[], env, &[("OPENAI_API_KEY", "k")]) {
                Err(error) => assert!(error.problems[0].starts_with(row.variable), "{error}"),
                Ok((Command::Run, config)) => assert_eq!(config.warnings.len(), 1, "{config:?}"),
                Ok(other) => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn long_and_many_lined_values_take_one_line() {
        let told =
            problems(&[], &[("OPENAI_API_KEY", "k"), ("PROXY_PORT", &"é\n".repeat(500))], &[]);
        assert_eq!(told.len(), 1);
        assert!(told[0].len() < 300 && !told[0].contains('\n'), "{told:?}");
    }

    #[test]
    fn openai_needs_a_key_and_others_do_not() {
        let told = problems(&[], &[], &[]);
        assert_eq!(told.len(), 1);
        assert!(told[0].contains("export OPENAI_API_KEY"), "{told:?}");
        assert_eq!(problems(&["--base-url=https://API.openai.com:443/v2"], &[], &[]), told);
        assert!(sources(&["--api-key=k"], &[], &[]).is_ok());
        assert!(sources(&["--base-url=http://h"], &[], &[]).is_ok());
        let bad_key = problems(&[], &[("OPENAI_API_KEY", "two words")], &[]);
        assert!(bad_key.len() == 1 && bad_key[0].starts_with("OPENAI_API_KEY is ***: "));
        let bad_url = problems(&["--base-url=h"], &[], &[]);
        assert!(bad_url.len() == 1 && bad_url[0].starts_with("--base-url is "), "{bad_url:?}");
    }

    #[test]
    fn no_secret_is_ever_shown() {
        let good = config(
            &[],
            &[("OPENAI_API_KEY", "s3cret-77"), ("OPENAI_BASE_URL", "http://h/v1?key=s3cret-77")],
            &[("OLLAMA_KEEP_ALIVE", "s3cret-77"), ("OLLAMA_HOST", "h:s3cret-77")],
        );
        assert_eq!(good.upstream.api_key.as_ref().map(Secret::expose), Some("s3cret-77"));
        assert_eq!(good.warnings.len(), 2);
        assert_eq!(shown(&good, "OPENAI_API_KEY"), "***");
        assert_eq!(shown(&good, "OPENAI_API_BASE_URL"), "http://h/v1?key=***");
        let mut told = vec![good.describe(), format!("{good:?}"), format!("{:?}", good.warnings)];

        for key in ["s3cret-77", "s3cret-77 with blanks", "s3cr\u{e9}t-77"] {
            for (args, least) in [
                (&["--port", key, "--nonsense", key, key, "--check=s3cret-77"][..], 3),
                (&["--port", key, "--host=me:s3cret-77@h"], 4),
            ] {
                let error = sources(
                    args,
                    &[("OPENAI_API_KEY", key), ("LOG_LEVEL", key), ("RETRY_MAX", "s3cret-77@")],
                    &[("OPENAI_BASE_URL", "http://me:s3cret-77@h/v1?s3cret-77#s3cret-77")],
                )
                .expect_err("nearly everything is wrong");
                assert!(error.problems.len() >= least, "{error}");
                told.extend([error.to_string(), format!("{error:?}")]);
            }
        }
        for text in told {
            assert!(!text.contains("s3cr"), "{text}");
        }
    }

    #[test]
    fn keys_of_those_who_may_ask_are_never_shown() {
        let good = config(
            &["--proxy-api-keys=s3cret-one, s3cret-two", "--keep-alive=s3cret-two"],
            &[("PROXY_API_KEYS_FILE", "~/keys"), ("HOME", "/h")],
            &[],
        );
        assert_eq!(good.proxy_api_keys.secrets().count(), 2);
        assert_eq!(shown(&good, "PROXY_API_KEYS"), "***");
        assert_eq!(shown(&good, "PROXY_API_KEYS_FILE"), "/h/keys");
        assert_eq!(shown(&config(&[], &[], &[]), "PROXY_API_KEYS"), "");
        let mut told = vec![good.describe(), format!("{good:?}")];
        let shown = good.redactor().redact("s3cret-one s3cret-two").into_owned();
        assert_eq!(shown, "*** ***");
        let bad = problems(
            &["--proxy-api-keys=s3cret one,s3cret-two", "--port=s3cret-two", "--api-key=k"],
            &[("PROXY_API_KEYS_FILE", "/s\n3")],
            &[],
        );
        assert_eq!(bad.len(), 3, "{bad:?}");
        assert!(bad[1].starts_with("--proxy-api-keys is ***: expected 1 to 256 keys "), "{bad:?}");
        assert!(bad[2].starts_with("PROXY_API_KEYS_FILE is "), "{bad:?}");
        told.extend(bad);
        for text in told {
            assert!(!text.contains("s3cr"), "{text}");
        }
    }

    #[test]
    fn a_log_of_bodies_is_a_warning() {
        let warnings = |args: &[&str]| config(args, &[], &[]).warnings.join("|");
        assert_eq!(warnings(&["--log-level=trace"]), "");
        let both = warnings(&["--log-bodies=1", "--log-level=trace"]);
        assert_eq!(both, "LOG_BODIES is on: prompts and responses are logged");
        let alone = warnings(&["--log-bodies=true"]);
        assert_eq!(alone, "LOG_BODIES has no effect unless LOG_LEVEL is trace");
    }

    #[test]
    fn odd_values_that_ollama_accepts_are_warnings() {
        let config = config(&["--keep-alive=soon"], &[("OLLAMA_HOST", ":66000")], &[]);
        assert_eq!((config.port, config.keep_alive), (11434, Config::default().keep_alive));
        let [host, keep_alive] = config.warnings.as_slice() else {
            panic!("{:?}", config.warnings);
        };
        assert!(host.starts_with("OLLAMA_HOST is \":66000\": "), "{host}");
        assert!(host.ends_with("; using 11434"), "{host}");
        assert!(keep_alive.starts_with("--keep-alive is \"soon\": "), "{keep_alive}");
        assert!(keep_alive.ends_with("; using 5m"), "{keep_alive}");
    }

    #[test]
    fn the_description_can_be_read_back() {
        let check = |args: &[&str]| {
            let text = config(args, &[], &[]).describe();
            let pairs: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).collect();
            assert_eq!(config(&[], &pairs, &[]).describe(), text);
        };
        check(&[]);
        check(&[
            "--host=[::1]",
            "--keep-alive=-5s",
            "--request-timeout=0.125",
            "--log-level=trace",
        ]);
        check(&["--host=localhost:0", "--keep-alive=0"]);
        check(&["--host=:80", "--keep-alive=1h", "--max-body-bytes=1G", "--context-length=8192"]);
        check(&["--origins=http://a.test, chrome-extension://*,*"]);
        check(&["--api-key=k", "--base-url=http://[::1]:8080/v1?a=b", "--retry-max=0"]);
    }

    #[test]
    fn what_only_a_restart_changes_is_named() {
        let old = config(&[], &[], &[]);
        assert_eq!(old.unreloadable_changes(&old), [""; 0]);
        let new = config(&["--workers=7", "--retry-max=1", "--shutdown-grace=2"], &[], &[]);
        assert_eq!(old.unreloadable_changes(&new), ["PROXY_WORKERS", "SHUTDOWN_GRACE"]);
        let new = config(&["--host=0.0.0.0", "--max-queue=1"], &[], &[]);
        assert_eq!(old.unreloadable_changes(&new), ["OLLAMA_HOST", "OLLAMA_MAX_QUEUE"]);
    }

    #[test]
    fn the_command_follows_the_flags() {
        assert!(matches!(sources(&["--help", "--port=x"], &[], &[]), Ok((Command::Help, _))));
        assert!(matches!(sources(&["-V"], &[], &[]), Ok((Command::Version, _))));
        assert!(matches!(sources(&["--check", "--api-key=k"], &[], &[]), Ok((Command::Check, _))));
        assert!(matches!(sources(&["--api-key=k"], &[], &[]), Ok((Command::Run, _))));
    }

    #[test]
    fn an_embedded_server_listens_on_a_free_loopback_port() {
        let config = Config::for_base_url("http://127.0.0.1:9/v1").expect("a base URL");
        assert_eq!(config.listen_addr(), ("127.0.0.1".to_owned(), 0));
        assert_eq!(config.upstream.base_url.join("models"), "http://127.0.0.1:9/v1/models");
        let error = Config::for_base_url("http://me:s3cret@h:x").expect_err("has no port");
        assert!(!error.to_string().contains("s3cret"), "{error}");
        let everywhere = Config { host: String::new(), ..config };
        assert_eq!(everywhere.listen_addr(), ("::".to_owned(), 0));
    }
}
