//! Models: the upstream's model list, the running models, and the virtual models created here.
//!
//! Parses model lists and model details, keeps the current list, and renders models for Ollama's
//! `/api/tags`, `/api/ps` and `/api/show`. Never sends a request: callers pass in what they fetched.
//! Invariant: a request that names a model as it is shown reaches that model.
//!
//! # Where the facts come from
//!
//! What is reported of a model (context length, capabilities, size, quantization) comes from the
//! first of these sources that knows it:
//!
//! 1. the upstream's model list ([`list`]);
//! 2. endpoints beside it ([`probes`]): llama.cpp `/props`, LM Studio `/api/v0/models`, LiteLLM
//!    `/model/info`, LocalAI `models/capabilities`, TGI `/info`, OpenRouter `embeddings/models`.
//!    One attempt of at most 3 s follows each new list; an endpoint that fails is left alone for 10
//!    minutes;
//! 3. a table of well-known models (`backends::known_models`);
//! 4. for the context length, `OLLAMA_CONTEXT_LENGTH`, else 32,768 tokens.
//!
//! A request is refused only for what the upstream itself denies, and an embedding model is not
//! asked to chat; what is unknown is tried. Strings that clients require get a stable placeholder,
//! never an empty text. The list is kept for `MODELS_TTL` (30 s), and shown for 5 minutes more while
//! the upstream does not send a newer one. Names always carry a tag (`gpt-4o:latest`).

pub mod anthropic_list;
pub mod catalog;
pub mod configured;
mod entry;
pub mod list;
pub mod model;
pub(crate) mod modelfile;
pub mod probes;
pub mod render;
pub mod running_models;
mod state_file;
pub mod store;
pub mod unlisted;
pub mod virtual_model;
