//! The option table: one row per option, the source of the parser, `--help`, the README's table and
//! the list of effective values.
//!
//! A new option needs a row here and a field with its default in [`Config`]; it never reads a source
//! itself. Rows are applied in order and later rows override earlier ones, so `OLLAMA_HOST` stands
//! above `PROXY_PORT` and `OLLAMA_DEBUG` above `LOG_LEVEL`.
//! Invariant: applying a row's default text to a default [`Config`] changes nothing.

mod upstream_rows;

use std::path::PathBuf;

use log::LevelFilter;

use super::{Config, parsers};
use crate::api::wire::keep_alive::KeepAlive;
use crate::http::client_keys::ClientKeys;
use crate::http::cors::CorsPolicy;
use crate::net::listen_address;

/// The result of applying a value: nothing, a warning, or an error that says what is expected.
pub type ApplyResult = Result<Option<String>, String>;

/// One option.
#[derive(Clone, Debug)]
pub struct OptionSpec {
    /// The environment variable.
    pub variable: &'static str,
    /// Aliases of the variable; it overrides them within one source.
    pub aliases: &'static [&'static str],
    /// The flag and a placeholder of its value, or the placeholder alone if only the environment can
    /// set the option.
    pub usage: &'static str,
    /// The default as a user would write it, if `show` writes it in another form.
    pub default: Option<&'static str>,
    /// The help text. No `|`, which would end a cell of the README's table.
    pub help: &'static str,
    /// True if the value must never be shown.
    pub secret: bool,
    /// True if the option describes the upstream of the environment, which a file's upstreams replace.
    pub is_upstream: bool,
    /// True if the value is the path of a file.
    pub is_path: bool,
    /// What stands between the items where a file gives the value as a list; empty if it is no list.
    pub separator: &'static str,
    /// True if a new value has no effect until the program starts again.
    pub needs_restart: bool,
    /// Parses the value into the configuration.
    pub apply: fn(&mut Config, &str) -> ApplyResult,
    /// The effective value, in a form that `apply` accepts, unless it is a secret.
    pub show: fn(&Config) -> String,
}

impl OptionSpec {
    /// The variable and its aliases, in order of precedence.
    pub fn variables(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.variable).chain(self.aliases.iter().copied())
    }

    /// The flag without its dashes; `None` if only the environment can set the option.
    pub fn flag(&self) -> Option<&'static str> {
        let (flag, _placeholder) = self.usage.strip_prefix("--")?.split_once(' ')?;
        Some(flag)
    }

    /// The key in the section `[server]` of the configuration file: the flag, or else the variable
    /// without its first word.
    pub fn file_key(&self) -> String {
        let name = |variable: &'static str| {
            let prefixes = ["OLLAMA_", "OPENAI_"];
            prefixes.iter().find_map(|prefix| variable.strip_prefix(prefix)).unwrap_or(variable)
        };
        let key = self.flag().map_or_else(|| name(self.variable).to_lowercase(), str::to_owned);
        key.replace('_', "-")
    }

    /// The default; empty if there is none.
    pub fn default_text(&self) -> String {
        self.default.map_or_else(|| (self.show)(&Config::default()), str::to_owned)
    }
}

/// The defaults of a row.
const EMPTY_OPTION: OptionSpec = OptionSpec {
    variable: "",
    aliases: &[],
    usage: "",
    default: None,
    help: "",
    secret: false,
    is_upstream: false,
    is_path: false,
    separator: "",
    needs_restart: false,
    apply: |_, _| Ok(None),
    show: |_| String::new(),
};

/// Every option, in the order in which values are applied.
pub const OPTIONS: &[OptionSpec] = &[
    upstream_rows::API_KEY,
    upstream_rows::API_KEY_FILE,
    upstream_rows::BASE_URL,
    upstream_rows::PROFILE,
    upstream_rows::ORGANIZATION,
    upstream_rows::PROJECT,
    upstream_rows::HEADERS,
    upstream_rows::PASS_CLIENT_KEY,
    upstream_rows::CA_FILE,
    upstream_rows::CLIENT_CERT_FILE,
    upstream_rows::CLIENT_KEY_FILE,
    upstream_rows::TLS_VERIFY,
    upstream_rows::MODELS,
    upstream_rows::EXTRA_BODY,
    upstream_rows::MODEL_ALIASES,
    OptionSpec {
        variable: "PROXY_CONFIG",
        usage: "--config FILE",
        help: "Configuration file (TOML); upstreams, models, any option.",
        is_path: true,
        apply: |c, text| set(&mut c.config_file, parsers::parse_path(text).map(Some)),
        show: |c| display_path(c.config_file.as_ref()),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "OLLAMA_HOST",
        usage: "--host HOST[:PORT]",
        help: "Address to listen on; `:PORT` is all interfaces, port 0 any port.",
        needs_restart: true,
        apply: apply_host,
        show: show_host,
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "PROXY_PORT",
        usage: "--port PORT",
        help: "Port to listen on, whatever `OLLAMA_HOST` says.",
        needs_restart: true,
        apply: |c, text| set(&mut c.port, parsers::parse_integer(text, 0..=65535)),
        show: |c| c.port.to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "OLLAMA_ORIGINS",
        usage: "--origins ORIGIN,...",
        help: "More web origins for CORS, each with at most one `*`; `*` allows any.",
        apply: apply_origins,
        separator: ",",
        show: |c| c.origins.as_str().to_owned(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "PROXY_API_KEYS",
        usage: "--proxy-api-keys KEY,...",
        help: "Keys that clients must send; with none, everyone may ask.",
        secret: true,
        separator: ",",
        apply: |c, text| set(&mut c.proxy_api_keys, ClientKeys::parse(text)),
        show: |c| if c.proxy_api_keys.is_empty() { String::new() } else { "***".to_owned() },
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "PROXY_API_KEYS_FILE",
        usage: "--proxy-api-keys-file FILE",
        help: "File with more keys, one per line: KEY, or NAME:KEY with limits; `#` comments.",
        is_path: true,
        apply: |c, text| set(&mut c.proxy_api_keys_file, parsers::parse_path(text).map(Some)),
        show: |c| display_path(c.proxy_api_keys_file.as_ref()),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "REQUEST_TIMEOUT",
        usage: "--request-timeout SECONDS",
        help: "Longest silence of the upstream, in seconds.",
        apply: |c, text| set(&mut c.request_timeout, parsers::parse_positive_seconds(text)),
        show: |c| c.request_timeout.as_secs_f64().to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "OLLAMA_DEBUG",
        usage: "LEVEL",
        help: "`1` or `true`: debug, `2`: trace; `LOG_LEVEL` overrides it.",
        apply: |c, text| set(&mut c.log_level, Ok(parsers::parse_debug_level(text))),
        show: |c| (c.log_level >= LevelFilter::Debug).to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "LOG_LEVEL",
        usage: "--log-level LEVEL",
        help: "`error`, `warn`, `info`, `debug` or `trace`.",
        apply: |c, text| set(&mut c.log_level, parsers::parse_log_level(text)),
        show: |c| c.log_level.to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "LOG_FORMAT",
        usage: "--log-format FORMAT",
        help: "`text`, `json`; `auto`: text on a terminal, else JSON.",
        apply: |c, text| set(&mut c.log_format, parsers::parse_log_format(text)),
        show: |c| c.log_format.to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "LOG_BODIES",
        usage: "--log-bodies BOOL",
        help: "Log prompts and answers, too, at level `trace`.",
        apply: |c, text| set(&mut c.log_bodies, parsers::parse_bool(text)),
        show: |c| c.log_bodies.to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "PROXY_WORKERS",
        usage: "--workers N",
        help: "Requests at once, 1 to 4096.",
        needs_restart: true,
        apply: |c, text| set(&mut c.workers, parsers::parse_integer(text, 1..=4096)),
        show: |c| c.workers.to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "OLLAMA_MAX_QUEUE",
        usage: "--max-queue N",
        help: "Requests that may wait; then 503.",
        needs_restart: true,
        apply: |c, text| {
            set_or_warn(&mut c.max_queue, parsers::parse_integer(text, 0..=65536), "512")
        },
        show: |c| c.max_queue.to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "MAX_CONNECTIONS",
        usage: "--max-connections N",
        help: "Most connections; then the oldest idle ones are closed.",
        needs_restart: true,
        apply: |c, text| {
            set(&mut c.connection_limits.max_connections, parsers::parse_integer(text, 8..=65_536))
        },
        show: |c| c.connection_limits.max_connections.to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "MAX_PER_CLIENT",
        usage: "--max-per-client N",
        help: "Requests at once per client address; then 503. 0 is no limit.",
        needs_restart: true,
        apply: |c, text| {
            set(&mut c.max_per_client, parsers::parse_integer(text, 0..=65_536).map(non_zero))
        },
        show: |c| c.max_per_client.unwrap_or(0).to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "MAX_BODY_BYTES",
        usage: "--max-body-bytes SIZE",
        help: "Largest request body, such as `100MiB`.",
        apply: |c, text| set(&mut c.max_body_bytes, parsers::parse_size(text)),
        show: |c| c.max_body_bytes.to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "RETRY_MAX",
        usage: "--retry-max N",
        help: "Retries of a failed upstream request, 0 to 10.",
        apply: |c, text| set(&mut c.retry.max_retries, parsers::parse_integer(text, 0..=10)),
        show: |c| c.retry.max_retries.to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "RETRY_INITIAL_MS",
        usage: "--retry-initial-ms MS",
        help: "Milliseconds before the first retry; doubles.",
        apply: |c, text| set(&mut c.retry.initial_delay, parsers::parse_millis(text, 0..=600_000)),
        show: |c| c.retry.initial_delay.as_millis().to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "RETRY_MAX_MS",
        usage: "--retry-max-ms MS",
        help: "Most milliseconds between retries.",
        apply: |c, text| set(&mut c.retry.max_delay, parsers::parse_millis(text, 0..=600_000)),
        show: |c| c.retry.max_delay.as_millis().to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "MODELS_TTL",
        usage: "--models-ttl SECONDS",
        help: "Seconds that model lists are cached.",
        apply: |c, text| set(&mut c.models_ttl, parsers::parse_seconds(text)),
        show: |c| c.models_ttl.as_secs_f64().to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "OLLAMA_KEEP_ALIVE",
        usage: "--keep-alive DURATION",
        default: Some("5m"),
        help: "How long a model shows as loaded: `5m`, `1h30m` or seconds; negative is forever.",
        apply: |c, text| set_or_warn(&mut c.keep_alive, parsers::parse_keep_alive(text), "5m"),
        show: show_keep_alive,
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "OLLAMA_CONTEXT_LENGTH",
        aliases: &["MODEL_CONTEXT_LENGTH"],
        usage: "--context-length TOKENS",
        help: "Context length where no server tells it; 0 means built-in.",
        apply: |c, text| {
            let tokens = parsers::parse_integer(text, 0..=MAX_TOKENS).map(non_zero);
            set_or_warn(&mut c.context_length, tokens, "0")
        },
        show: |c| c.context_length.unwrap_or(0).to_string(),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "PROXY_STATE",
        usage: "--state FILE",
        default: Some(parsers::DEFAULT_STATE_FILE),
        help: "File of created models; follows `XDG_DATA_HOME`.",
        needs_restart: true,
        is_path: true,
        apply: |c, text| set(&mut c.state_file, parsers::parse_state_path(text)),
        show: |c| display_path(c.state_file.as_ref()),
        ..EMPTY_OPTION
    },
    OptionSpec {
        variable: "SHUTDOWN_GRACE",
        usage: "--shutdown-grace SECONDS",
        help: "Seconds for running requests on shutdown.",
        needs_restart: true,
        apply: |c, text| set(&mut c.shutdown_grace, parsers::parse_seconds(text)),
        show: |c| c.shutdown_grace.as_secs_f64().to_string(),
        ..EMPTY_OPTION
    },
];

/// Largest context length: every client can hold 31 bits.
const MAX_TOKENS: u64 = i32::MAX as u64;

/// Stores a value, or passes the error on.
pub(super) fn set<T>(slot: &mut T, value: Result<T, String>) -> ApplyResult {
    *slot = value?;
    Ok(None)
}

/// As [`set`], for options of Ollama: a bad value is replaced by the default, with a warning, as in
/// Ollama (envconfig/config.go).
fn set_or_warn<T>(slot: &mut T, value: Result<T, String>, default: &str) -> ApplyResult {
    set(slot, value).or_else(|allowed| Ok(Some(format!("{allowed}; using {default}"))))
}

/// Zero means unset.
fn non_zero<T: Default + PartialEq>(number: T) -> Option<T> {
    (number != T::default()).then_some(number)
}

fn apply_host(config: &mut Config, text: &str) -> ApplyResult {
    let listen = listen_address::parse(text)?;
    config.host = listen.host;
    config.port = listen.port;
    Ok(listen.warning)
}

fn show_host(config: &Config) -> String {
    let Config { host, port, .. } = config;
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// A path; empty if there is none.
pub(super) fn display_path(path: Option<&PathBuf>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

fn apply_origins(config: &mut Config, text: &str) -> ApplyResult {
    config.origins = CorsPolicy::parse(text)?;
    Ok(config.origins.warning())
}

fn show_keep_alive(config: &Config) -> String {
    match config.keep_alive {
        KeepAlive::For(time) => format!("{time:?}"),
        KeepAlive::Forever => "-1".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn default_texts_agree_with_the_default_configuration() {
        for row in OPTIONS.iter().filter(|row| !row.default_text().is_empty()) {
            let mut config = Config::default();
            let applied = (row.apply)(&mut config, &row.default_text());
            assert_eq!(applied, Ok(None), "{}", row.variable);
            assert_eq!(config.describe(), Config::default().describe(), "{}", row.variable);
        }
    }

    #[test]
    fn names_are_unique_and_well_formed() {
        let mut names = HashSet::new();
        for row in OPTIONS {
            for name in row.variables().chain(row.flag()) {
                assert!(names.insert(name), "{name} is there twice");
            }
            assert!(row.help.ends_with('.') && !row.help.contains('|'), "{}", row.variable);
            assert!(!row.usage.is_empty(), "{}", row.variable);
        }
        for taken in ["help", "version", "check", "json", "healthcheck"] {
            assert!(!names.contains(taken), "--{taken} is no option");
        }
    }
}
