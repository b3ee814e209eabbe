//! Applies another configuration to a server that runs.
//!
//! Never reads a file: the caller has read and checked the configuration. Invariant: an upstream whose
//! settings stay the same stays the same, and so does each request that has begun.
//!
//! What it changes: upstreams and models, client keys, origins, and the options that need no restart. The
//! others are named in a warning, and their values of the start apply.

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::app::dispatcher::Dispatcher;
use crate::app::key_counts;
use crate::config::{Config, ConfigError};
use crate::handlers::App;
use crate::http::access::AccessControl;
use crate::http::host_info;
use crate::observe::lock::lock;
use crate::observe::redact::Redactor;
use crate::upstream::router::Router;
use crate::upstream::{RetryEnv, Upstream};

/// What a server needs to take another configuration.
pub(super) struct Reloader {
    pub app: Arc<App>,
    pub retry_env: Arc<RetryEnv>,
    /// The one of the log and of all upstreams.
    pub redactor: Redactor,
    /// The address that the server listens on.
    pub listen_address: IpAddr,
    /// The number of workers that run.
    pub workers: usize,
    /// The configuration of the start.
    pub started_with: Config,
    /// One reload at a time.
    pub turn: Mutex<()>,
}

impl Reloader {
    /// Applies a configuration to requests from now on.
    pub(super) fn reload(&self, mut config: Config, dispatcher: &Dispatcher) {
        let _turn = lock(&self.turn);
        // Before anything can name one of them.
        self.redactor.add(config.secrets());
        let restart = self.started_with.unreloadable_changes(&config);
        if !restart.is_empty() {
            log::warn!("reload: these options change only with a restart: {}", restart.join(", "));
        }
        config.workers = self.workers;
        let before = self.app.router();
        let upstreams = config.upstream_settings(&self.redactor);
        let mut settings = config.handler_settings(0);
        settings.configuration = config.settings_in_force(&self.app.configuration());
        let shared = (&self.retry_env, &self.app.metrics);
        let router = Router::new(upstreams, config.models, shared, Some(&before));
        let changes = describe(&before, &router);
        let (origins, keys) = (config.origins, config.proxy_api_keys);
        let named = self.app.keys.apply(&keys);
        let access = AccessControl::new(origins, keys, self.listen_address, host_info::detect())
            .with_named_keys(named);
        key_counts::start(&self.app);
        dispatcher.set_access(access);
        self.app.reload(&settings, router);
        self.app.metrics.reloads.add("ok", 1);
        log::info!("reloaded: {changes}");
    }

    /// Logs why a configuration is not applied, and counts that.
    pub(super) fn reject(&self, error: &ConfigError) {
        self.app.metrics.reloads.add("failed", 1);
        for problem in &error.problems {
            log::error!("reload: {problem}");
        }
        log::error!("reload failed: the configuration stays as it was");
    }
}

/// What became of each upstream.
fn describe(before: &Router, after: &Router) -> String {
    let fate = |upstream: &Arc<Upstream>| match before.find_upstream(upstream.name()) {
        Some(known) if Arc::ptr_eq(known, upstream) => "kept",
        Some(_) => "changed",
        None => "new",
    };
    let removed = before.upstreams().iter().filter(|it| after.find_upstream(it.name()).is_none());
    let fates = after.upstreams().iter().map(|it| (it.name(), fate(it)));
    let fates = fates.chain(removed.map(|it| (it.name(), "removed")));
    let fates: Vec<_> = fates.map(|(name, fate)| format!("upstream {name:?} {fate}")).collect();
    fates.join(", ")
}
