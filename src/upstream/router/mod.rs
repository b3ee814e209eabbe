//! The upstreams behind one address: which of them a request may go to.
//!
//! A [`Router`] is one configuration of upstreams and models. A request keeps the router that it began with,
//! so that a reload changes nothing for it. Invariant: an upstream whose settings a reload leaves alone keeps
//! its connections, its circuit, its list and what was learnt of it.

use std::sync::Arc;

use super::{RetryEnv, Settings, Upstream};
use crate::backends::names;
use crate::models::configured::ConfiguredModel;
use crate::observe::metrics::Metrics;

/// The upstreams and the models of the configuration.
pub struct Router {
    upstreams: Vec<Arc<Upstream>>,
    models: Vec<ConfiguredModel>,
}

impl Router {
    /// A router over these upstreams, in this order; at least one. Those that `previous` has with the same
    /// settings are kept.
    pub fn new(
        settings: Vec<Settings>,
        models: Vec<ConfiguredModel>,
        (retry_env, metrics): (&Arc<RetryEnv>, &Arc<Metrics>),
        previous: Option<&Self>,
    ) -> Self {
        let known = |settings: &Settings| {
            let mut upstreams = previous.into_iter().flat_map(Self::upstreams);
            // What was read of its certificates and keys may have changed under the same names.
            let is_same = |upstream: &&Arc<Upstream>| {
                upstream.settings.is_same(settings) && !upstream.client.agent.has_changed_files()
            };
            upstreams.find(is_same).cloned()
        };
        let upstream = |settings: Settings| {
            known(&settings)
                .unwrap_or_else(|| Upstream::new(settings, retry_env.clone(), metrics.clone()))
        };
        Self { upstreams: settings.into_iter().map(upstream).collect(), models }
    }

    /// The upstreams, in the order of the configuration.
    pub fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    /// Whether some upstream is to get the key that a client sends.
    pub fn passes_client_keys(&self) -> bool {
        self.upstreams.iter().any(|upstream| upstream.settings.server.pass_client_key)
    }

    /// The upstream of this name.
    pub fn find_upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.iter().find(|upstream| upstream.name() == name)
    }

    /// The models of the configuration, in its order.
    pub fn models(&self) -> &[ConfiguredModel] {
        &self.models
    }

    /// The model of the configuration that a name means.
    pub fn find_configured(&self, name: &str) -> Option<&ConfiguredModel> {
        if self.models.is_empty() {
            return None;
        }
        let key = names::canonical_key(name);
        self.models.iter().find(|model| names::canonical_key(&model.model.name) == key)
    }
}
