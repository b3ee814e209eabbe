//! What is known of an upstream before anything is asked of it.
//!
//! Filled elsewhere, from the environment or a file. Pure. Invariant: no `Debug` output holds a key, a
//! header's value or a password.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::backends::glob;
use crate::backends::profiles::Profile;
use crate::observe::redact::{Redactor, Secret};
use crate::upstream::backoff::RetryPolicy;
use crate::upstream::base_url::BaseUrl;
use crate::upstream::breaker;
use crate::upstream::proxy::Proxy;

/// The name of the upstream that the environment defines.
pub const DEFAULT_NAME: &str = "default";

/// One server: its address, how it is reached, and what it is asked for. Equal settings mean that what was
/// learnt of the server holds.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// Its name: letters, digits, `-`, `_` and `.`.
    pub name: String,
    /// Its address.
    pub base_url: BaseUrl,
    /// The proxy that leads to it.
    pub proxy: Option<Proxy>,
    /// Its key.
    pub api_key: Option<Secret>,
    /// The file that its key was read from; read again after a 401.
    pub api_key_file: Option<PathBuf>,
    /// Whether the key that the client sent goes up instead.
    pub pass_client_key: bool,
    /// Headers of each request. Values may be keys.
    pub headers: Vec<(String, Secret)>,
    /// Its family; `None` to detect it.
    pub profile: Option<&'static Profile>,
    /// Patterns of the ids that are used of its list; all if there are none.
    pub models: Vec<String>,
    /// Patterns of the ids that are not.
    pub exclude: Vec<String>,
    /// The ids of its models, where it is not asked for them.
    pub list: Option<Vec<String>>,
    /// The most requests at once; 0 is no limit.
    pub max_parallel: usize,
    /// How a connection to it is secured.
    pub tls: TlsSettings,
    /// The longest silence during a call; `None` for the general limit.
    pub timeout: Option<Duration>,
    /// Members that are added to each JSON request that lacks them.
    pub extra_body: Map<String, Value>,
}

/// How a connection to an upstream is secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// A file of authorities that are trusted beside the built-in ones, as PEM.
    pub ca_file: Option<PathBuf>,
    /// The authorities of the machine (`SSL_CERT_FILE`), trusted beside the built-in ones.
    pub system_ca_file: Option<PathBuf>,
    /// A folder of such files (`SSL_CERT_DIR`).
    pub system_ca_dir: Option<PathBuf>,
    /// The certificate that is shown to the server, with those of its issuers, as PEM.
    pub client_cert_file: Option<PathBuf>,
    /// Its private key, as PEM.
    pub client_key_file: Option<PathBuf>,
    /// Whether the server's certificate is checked.
    pub verify: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            ca_file: None,
            system_ca_file: None,
            system_ca_dir: None,
            client_cert_file: None,
            client_key_file: None,
            verify: true,
        }
    }
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            name: DEFAULT_NAME.to_owned(),
            base_url: BaseUrl::default(),
            proxy: None,
            api_key: None,
            api_key_file: None,
            pass_client_key: false,
            headers: Vec::new(),
            profile: None,
            models: Vec::new(),
            exclude: Vec::new(),
            list: None,
            max_parallel: 0,
            tls: TlsSettings::default(),
            timeout: None,
            extra_body: Map::new(),
        }
    }
}

impl ServerSettings {
    /// True if a model of this id is used.
    pub fn allows(&self, id: &str) -> bool {
        let is_in = |patterns: &[String]| patterns.iter().any(|it| glob::matches(it, id));
        (self.models.is_empty() || is_in(&self.models)) && !is_in(&self.exclude)
    }

    /// Every key and password among the settings, to be masked.
    pub fn secrets(&self) -> impl Iterator<Item = Secret> + '_ {
        let proxy_auth = self.proxy.as_ref().and_then(|proxy| proxy.auth.as_ref());
        let auths = self.base_url.auth().into_iter().chain(proxy_auth);
        let passwords = auths.flat_map(|auth| auth.secrets().cloned().chain([auth.token()]));
        // A value may begin with a scheme, as `Bearer KEY` does, and a text name the key alone.
        let headers = self.headers.iter().flat_map(|(_, value)| {
            let key = value.expose().split_once(' ').map(|(_, key)| Secret::new(key.trim()));
            [value.clone()].into_iter().chain(key)
        });
        self.api_key.iter().cloned().chain(headers).chain(passwords)
    }
}

/// The settings of one upstream: its own, and those that all upstreams share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its own.
    pub server: ServerSettings,
    /// The longest silence during a call.
    pub request_timeout: Duration,
    /// The most requests at once, which is also the most idle connections kept.
    pub workers: usize,
    /// When and how often a call is repeated.
    pub retry: RetryPolicy,
    /// When calls fail at once because the upstream is unreachable.
    pub breaker: breaker::Settings,
    /// How long its model list stays fresh.
    pub models_ttl: Duration,
    /// The time between two requests of a model that try to do without one of its repairs.
    pub experiment_interval: Duration,
    /// How long holds what was learnt of it.
    pub learnt_ttl: Duration,
    /// Whether bodies are logged.
    pub log_bodies: bool,
    /// Masks every known key in texts.
    pub redactor: Redactor,
}

impl Settings {
    /// True if an upstream with the other settings behaves as one with these does. The keys that are masked
    /// do not count: all upstreams share them.
    pub fn is_same(&self, other: &Self) -> bool {
        self.server == other.server
            && self.request_timeout == other.request_timeout
            && self.workers == other.workers
            && self.retry == other.retry
            && self.breaker == other.breaker
            && self.models_ttl == other.models_ttl
            && self.experiment_interval == other.experiment_interval
            && self.learnt_ttl == other.learnt_ttl
            && self.log_bodies == other.log_bodies
    }
}
