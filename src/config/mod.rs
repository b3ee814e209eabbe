//! Reads flags, environment, `./.env` and the file of client keys into a checked [`Config`].
//!
//! Steps: `raw.rs` collects the text of each option, `file` reads the configuration file, `resolve.rs`
//! merges both, and the rows of `options.rs` turn the text into fields with the functions of `parsers.rs`.
//! Problems are reported together, one line each; a malformed command line is reported alone. Only [`load`]
//! reads anything; this room never prints, changes a file or ends the process.
//! Invariant: no error, warning, `Debug` output or description holds a key, nor a user name, a
//! password or a query's value from a URL.
//!
//! # Sources
//!
//! Flags override the environment, which overrides a `.env` file in the working directory, which overrides
//! the section `[server]` of the configuration file (`PROXY_CONFIG`). An empty value counts as none. Where
//! the file has an `[[upstream]]`, the options that describe one are ignored with a warning. Where Ollama falls back to a default (`OLLAMA_KEEP_ALIVE`,
//! `OLLAMA_MAX_QUEUE`, `OLLAMA_CONTEXT_LENGTH`, the port in `OLLAMA_HOST`), a wrong value is a
//! warning in the log, and the default applies. Variables of Ollama that have no meaning here are
//! ignored; the README lists them.

mod dotenv;
mod file;
mod help;
mod key_file;
mod nearest;
mod options;
mod parsers;
mod raw;
mod read_file;
mod resolve;
mod upstream_values;

use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use log::LevelFilter;

#[doc(hidden)] // For tests that know no folder.
pub use self::dotenv::parse as dotenv;
#[doc(hidden)] // For the test of the README.
pub use self::file::reference as file_reference;
#[doc(hidden)] // For tests of any text.
pub use self::file::{ConfigFile, Environment, Surroundings, parse as parse_file};
#[doc(hidden)] // For the test of the man page and of the completions.
pub use self::help::COMMANDS;
pub use self::help::{help, version};
#[doc(hidden)] // For the test of the README's table.
pub use self::options::{OPTIONS, OptionSpec};

use self::raw::CommandLine;
use self::resolve::Sources;
use crate::api::wire::keep_alive::KeepAlive;
use crate::handlers;
use crate::http::client_keys::ClientKeys;
use crate::http::cors::CorsPolicy;
use crate::models::configured::ConfiguredModel;
use crate::net::connection_guard::Limits;
use crate::observe::logging::LogFormat;
use crate::observe::redact::{Redactor, Secret};
use crate::observe::system_error;
use crate::upstream;
use crate::upstream::LEARNT_TTL;
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::base_url::BaseUrl;
use crate::upstream::breaker;
use crate::upstream::repair::memory::EXPERIMENT_INTERVAL;
use crate::upstream::settings::ServerSettings;

/// The file in the working directory that may set variables.
const DOTENV_FILE: &str = ".env";

/// All settings, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// The upstream that the environment defines, if `upstreams` is empty.
    pub upstream: ServerSettings,
    /// The upstreams of the file, in its order.
    pub upstreams: Vec<ServerSettings>,
    /// The models of the file and of `MODEL_ALIASES`.
    pub models: Vec<ConfiguredModel>,
    /// The names of `MODEL_ALIASES` and what they stand for.
    pub model_aliases: Vec<(String, String)>,
    /// The configuration file.
    pub config_file: Option<PathBuf>,
    /// Values of variables in the file that must be masked beside the keys.
    pub file_secrets: Vec<Secret>,
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
    /// The form of the log's lines.
    pub log_format: LogFormat,
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
    /// How long holds what was learnt of an upstream; only tests change it.
    pub learnt_ttl: Duration,
    /// When silent streams show that they are alive; only tests change it.
    pub keepalive: handlers::KeepaliveSettings,
    /// How long each long stream pauses behind a write; `None` for as long as the load of the machine asks for.
    /// Only tests change it.
    pub stream_pause: Option<Duration>,
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
    /// Holds the keys that [`Config::redactor`] masks.
    pub shared_redactor: Redactor,
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
    /// The same, told as JSON.
    CheckJson,
    /// Print [`version`].
    Version,
    /// Print [`help()`].
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
    let sources = Sources { line: &line, env: &env, dotenv: &dotenv };
    let (mut config, found) = resolve::resolve(&sources, Some(SystemTime::now()));
    problems.extend(found);
    // The health check sends no key.
    if problems.is_empty() && line.command != Command::Healthcheck {
        problems.extend(key_file::finalize(&mut config).err());
    }
    if problems.is_empty() { Ok((line.command, config)) } else { Err(ConfigError { problems }) }
}

/// The pure part of [`load`]: `args` override `env`, which overrides the pairs of the `.env` file.
/// Reads no other file.
///
/// # Errors
/// The problems of the command line, or else those of all values together.
pub fn from_sources(
    args: impl IntoIterator<Item = OsString>,
    env: &dyn Fn(&str) -> Option<String>,
    dotenv: &[(String, String)],
) -> Result<(Command, Config), ConfigError> {
    let line = parse_args(args)?;
    if line.command >= Command::Version {
        return Ok((line.command, Config::default()));
    }
    match resolve::resolve(&Sources { line: &line, env, dotenv }, None) {
        (config, problems) if problems.is_empty() => Ok((line.command, config)),
        (_, problems) => Err(ConfigError { problems }),
    }
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
        Err(error) => {
            let why = system_error::describe_read(&error);
            (Vec::new(), vec![format!("{DOTENV_FILE}: {why}")])
        }
    }
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

    /// Masks every configured key and password. All redactors of one configuration share their keys, so
    /// that what a reload adds is masked in the log, too.
    pub fn redactor(&self) -> Redactor {
        self.shared_redactor.add(self.secrets());
        self.shared_redactor.clone()
    }

    /// Every configured key and password.
    pub fn secrets(&self) -> impl Iterator<Item = Secret> + '_ {
        let servers = [&self.upstream].into_iter().chain(&self.upstreams);
        let client_keys = self.proxy_api_keys.secrets().cloned();
        let other = self.file_secrets.iter().cloned().chain(client_keys);
        servers.flat_map(ServerSettings::secrets).chain(other)
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
            learnt_ttl: self.learnt_ttl,
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
            stream_pause: self.stream_pause,
            max_kept_bytes,
            max_waiting: self.max_queue,
            configuration: self.settings_in_force(&[]),
        }
    }

    /// The options that a new configuration changes and that only a restart applies.
    pub fn unreloadable_changes(&self, new: &Self) -> Vec<&'static str> {
        let is_changed =
            |row: &&OptionSpec| row.needs_restart && (row.show)(self) != (row.show)(new);
        OPTIONS.iter().filter(is_changed).map(|row| row.variable).collect()
    }

    /// The effective values, `VARIABLE=value` on a line each, in the form that the sources take.
    /// Keys and the secrets of a URL are masked. Without those that the file's upstreams replace.
    pub fn describe(&self) -> String {
        let line = |(name, value)| format!("{name}={value}");
        self.settings().map(line).collect::<Vec<_>>().join("\n")
    }

    /// The same, each as a variable and its value, also where a value looks like a key; of options that only a
    /// restart changes, the value of `before`, if it has one.
    pub fn settings_in_force(
        &self,
        before: &[(&'static str, String)],
    ) -> Vec<(&'static str, String)> {
        let redactor = self.redactor();
        let stays =
            |name: &str| OPTIONS.iter().any(|row| row.variable == name && row.needs_restart);
        let value = |(name, value): (&'static str, String)| {
            let kept = before.iter().find(|(known, _)| *known == name && stays(name));
            if let Some(kept) = kept {
                return kept.clone();
            }
            // What looks like a key behind the name of a key is masked, too.
            let line = format!("{name}={value}");
            let line = redactor.redact(&line);
            (name, line.split_once('=').map_or_else(String::new, |(_, value)| value.to_owned()))
        };
        self.settings().map(value).collect()
    }

    /// The same, each as a variable and its value.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        let counts = |row: &&OptionSpec| !row.is_upstream || self.upstreams.is_empty();
        OPTIONS.iter().filter(counts).map(|row| (row.variable, (row.show)(self)))
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            upstream: ServerSettings::default(),
            upstreams: Vec::new(),
            models: Vec::new(),
            model_aliases: Vec::new(),
            config_file: None,
            file_secrets: Vec::new(),
            host: "127.0.0.1".to_owned(),
            port: 11434,
            origins: CorsPolicy::default(),
            proxy_api_keys: ClientKeys::default(),
            proxy_api_keys_file: None,
            request_timeout: Duration::from_secs(300),
            log_level: LevelFilter::Info,
            log_format: LogFormat::default(),
            log_bodies: false,
            workers: 256,
            max_queue: 512,
            connection_limits: Limits::default(),
            max_per_client: None,
            max_body_bytes: 100 << 20,
            retry: RetryPolicy::default(),
            breaker: breaker::Settings::default(),
            experiment_interval: EXPERIMENT_INTERVAL,
            learnt_ttl: LEARNT_TTL,
            keepalive: handlers::KeepaliveSettings::default(),
            stream_pause: None,
            models_ttl: Duration::from_secs(30),
            keep_alive: KeepAlive::For(Duration::from_secs(300)),
            context_length: None,
            state_file: None,
            shutdown_grace: Duration::from_secs(30),
            warnings: Vec::new(),
            shared_redactor: Redactor::default(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl StdError for ConfigError {}

#[cfg(test)]
mod tests;
