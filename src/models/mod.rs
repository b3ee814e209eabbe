//! What is known of models: the upstream's list, the running ones, and the virtual ones made here.
//!
//! Also what Ollama's routes show of them. Never sends a request: who fetches a list or a fact passes
//! it in. Invariant: a model that is shown can be asked for under the name that is shown.

pub mod catalog;
pub(crate) mod list;
pub mod model;
pub(crate) mod modelfile;
pub(crate) mod probes;
pub(crate) mod render;
pub mod running_models;
pub mod store;
pub mod virtual_model;
