//! The upstreams behind one address: which of them a request may go to.
//!
//! A [`Router`] is one configuration of upstreams and models. A request keeps the router that it began with,
//! so that a reload changes nothing for it.
//!
//! - **Names** (`candidates`): what a name means, and which upstreams it leads to.
//! - **Lists**: one fetch for each upstream, all at the same time. A request waits at most 10 s for the first
//!   list, then 2 s for the others, and 0.5 s for newer ones than those at hand. The last list of an upstream
//!   stays until the upstream sends another one.
//! - **Order**: `order` is that of the configuration, `least-busy` that of the requests in flight, `sticky`
//!   that of `rendezvous` hashing over the conversation.
//! - **Failover** (`failover`): before the first byte of a response, most failures send the request to the
//!   next candidate at once. `RETRY_MAX` counts rounds over all candidates, with the backoff between them.
//! - **Limits** (`slots`): a request that finds all its upstreams at their `max_parallel` waits in order of
//!   arrival, at most for the upstream's time limit; of more than `OLLAMA_MAX_QUEUE` waiting requests, the
//!   last ones get 503.
//! - **Circuits**: an upstream whose circuit is open is passed over, and probed behind the requests.
//!
//! Invariant: an upstream whose settings a reload leaves alone keeps
//! its connections, its circuit, its list and what was learnt of it.

pub(crate) mod candidates;
pub(crate) mod failover;
mod lists;
pub(crate) mod rendezvous;
pub(crate) mod slots;

use std::sync::Arc;
use std::time::Duration;

use self::slots::{Slot, SlotQueue, Slots};
use super::{RetryEnv, Settings, Upstream};
use crate::backends::names;
use crate::error::Result;
use crate::models::configured::ConfiguredModel;
use crate::observe::metrics::Metrics;

/// The upstreams and the models of the configuration.
pub struct Router {
    upstreams: Vec<Arc<Upstream>>,
    models: Vec<ConfiguredModel>,
    /// Their names, as names are compared.
    model_keys: Vec<String>,
    /// The requests that wait for a place at an upstream.
    queue: Arc<SlotQueue>,
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
            upstreams.find(|upstream| upstream.is_made_of(settings)).cloned()
        };
        let queue = previous.map(|previous| previous.queue.clone()).unwrap_or_default();
        let upstream = |settings: Settings| {
            known(&settings).unwrap_or_else(|| {
                let shared = (retry_env.clone(), metrics.clone());
                Upstream::new(settings, shared, queue.clone())
            })
        };
        let upstreams: Vec<_> = settings.into_iter().map(upstream).collect();
        if upstreams.len() > 1 {
            upstreams.iter().for_each(Upstream::probe_when_out);
        }
        let key = |model: &ConfiguredModel| names::canonical_key(&model.model.name);
        let model_keys = models.iter().map(key).collect();
        Self { upstreams, models, model_keys, queue }
    }

    /// The upstreams, in the order of the configuration.
    pub fn upstreams(&self) -> &[Arc<Upstream>] {
        &self.upstreams
    }

    /// Streams of all upstreams that are open.
    pub fn open_streams(&self) -> u64 {
        self.upstreams.iter().map(|upstream| upstream.client.metrics.open_streams.get()).sum()
    }

    /// Whether some upstream is to get the key that a client sends.
    pub fn passes_client_keys(&self) -> bool {
        self.upstreams.iter().any(|upstream| upstream.settings.server.pass_client_key)
    }

    /// The upstream, if there is one only.
    pub fn only_upstream(&self) -> Option<&Arc<Upstream>> {
        match &self.upstreams[..] {
            [only] => Some(only),
            _ => None,
        }
    }

    /// The upstream of this name.
    pub fn find_upstream(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstreams.iter().find(|upstream| upstream.name() == name)
    }

    /// Waits for a place at one of these upstreams: the first ones are full, the others are out.
    pub(crate) fn wait_for_slot(
        &self,
        slots: (Vec<Arc<Slots>>, Vec<Arc<Slots>>),
        max_waiting: usize,
        timeout: Duration,
    ) -> Result<Slot> {
        self.queue.wait(slots, max_waiting, timeout)
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
        let at = self.model_keys.iter().position(|known| *known == key)?;
        self.models.get(at)
    }
}
