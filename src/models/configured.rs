//! Models that the configuration defines: a name for one or several models of the upstreams, with defaults
//! such as a system prompt.
//!
//! They behave as virtual models do, are listed before them, and cannot be deleted by clients. Pure.
//! Invariant: a configured model has at least one target.

use std::sync::Arc;

use super::model::{Capabilities, Model};
use super::virtual_model::VirtualModel;

/// A model of the configuration.
#[derive(Clone, Debug)]
pub struct ConfiguredModel {
    /// Its name and its defaults; `from` is the first target as a client would name it.
    pub model: Arc<VirtualModel>,
    /// What it stands for, in order.
    pub targets: Vec<Target>,
    /// Which target gets a request.
    pub strategy: Strategy,
    /// Its context length in tokens; `None` for the target's.
    pub context_length: Option<u64>,
    /// What it can do, in Ollama's words; `None` for what the target can do.
    pub capabilities: Option<Vec<String>>,
    /// Whether no list shows it.
    pub is_hidden: bool,
}

impl ConfiguredModel {
    /// What the model can do: what the configuration says, or else what is known of the target.
    pub fn capabilities_over(&self, known: Capabilities) -> Capabilities {
        self.capabilities.as_deref().map_or(known, Capabilities::from_names)
    }

    /// Puts what the configuration says over what is known of the target.
    pub fn apply_to(&self, model: &mut Model) {
        model.context_length = self.context_length.or(model.context_length);
        model.capabilities = self.capabilities_over(model.capabilities);
    }
}

/// A model of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The upstream's name; `None` for those that list the model.
    pub upstream: Option<String>,
    /// The upstream's id of the model.
    pub id: String,
}

/// Which of several upstreams gets a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The first that is able.
    #[default]
    Order,
    /// The one with the fewest requests in flight.
    LeastBusy,
    /// The one whose cache knows the conversation.
    Sticky,
}

impl Strategy {
    /// All strategies.
    pub const ALL: [Self; 3] = [Self::Order, Self::LeastBusy, Self::Sticky];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::LeastBusy => "least-busy",
            Self::Sticky => "sticky",
        }
    }
}
