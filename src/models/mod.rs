//! Models: the upstream's model list, the running models, and the virtual models created here.
//!
//! Parses model lists and model details, keeps the current list, and renders models for Ollama's
//! `/api/tags`, `/api/ps` and `/api/show`. Never sends a request: callers pass in what they fetched.
//! Invariant: a request that names a model as it is shown reaches that model.

pub mod catalog;
mod entry;
pub mod list;
pub mod model;
pub(crate) mod modelfile;
pub mod probes;
pub mod render;
pub mod running_models;
pub mod store;
pub mod virtual_model;
