//! Translates Ollama's, OpenAI's and Anthropic's requests for an OpenAI-compatible upstream, and its
//! responses back.
//!
//! Pure: no I/O, clock or random source; values in, values out. Never sends anything or decides when
//! to. Invariant: every member of a request is translated, ignored for a documented reason, or refused
//! by name. The state of a stream lives in [`stream::ResponseTranslator`], which writes nothing.
//!
//! # What differs from Ollama, by endpoint
//!
//! The reference is Ollama 0.40.16. Routes that need no translation are listed as well.
//!
//! | route | difference |
//! | --- | --- |
//! | `/api/version` | `0.40.16`; the proxy's own version is in `X-Ollama-OpenAI-Proxy-Version` |
//! | `/api/tags`, `show` | upstream and virtual models, as far as known; see [`crate::models`] |
//! | `/api/show` | the `template` of an upstream's model is a placeholder; `thinking` as far as known, see [`crate::backends::thinking_modes`] |
//! | `/api/ps` | models recently used, see [`crate::models::running_models`]; those that no list shows are in `tags` too while they run |
//! | `/api/chat`, `generate` | `_debug_render_only` is refused: the upstream renders prompts |
//! | `/api/generate` | `raw` goes to `completions`; a `template` is checked but has no effect |
//! | with `suffix` | `completions`, llama.cpp `/infill` or Mistral `fim/completions`; see below |
//! | with `context` | a list of integers that holds the conversation itself, no tokens |
//! | `/api/embed` | long lists are sent in batches, see [`embed`] |
//! | `/api/embeddings` | the digits of the upstream, unchanged |
//! | `/api/create`, `copy`, `delete` | virtual models; 403 for deleting a model of the upstream |
//! | `/api/pull` | nothing is transferred: success for a listed model, else Ollama's error |
//! | `/api/push` | always ends in an error: there is no registry |
//! | `/api/blobs/:digest` | the digest is checked and the content dropped; 1,024 digests are kept |
//! | `/api/status` | the cloud is disabled |
//! | `/api/me`, `signout`, `user/keys` | 401: nobody is signed in |
//! | `/api/experimental/web_search`, `web_fetch` | 403: the cloud is disabled |
//! | `/api/experimental/model-recommendations` | an empty list |
//!
//! On all of them:
//!
//! - Tool calls are collected and sent whole. A client may leave out ids in its history, and send results
//!   in any order ([`history`]). Schemas get the `properties` and `items` that strict upstreams miss.
//! - Reasoning becomes `thinking`, whether the upstream sends it apart or between `<think>` tags at
//!   the beginning of the text ([`think_tags`]). `"think": false` removes it from the response; any text
//!   is a level ([`think`]).
//! - Reasoning with nothing behind it is the answer where none was wanted, or where it is the JSON
//!   that was ([`stream`]).
//! - Images are accepted in chats and in ordinary prompts, not with `raw` and not with `suffix`.
//! - Where `completions` takes no `suffix` (vLLM, TGI, and whoever rejects it), a model of a known
//!   family gets its family's prompt for it ([`crate::backends::fim_prompts`]); any other gets 400.
//! - Tokens of the prompt that the upstream found in its cache are in `prompt_eval_cached_count`, as in
//!   Ollama 0.40; the member is absent where the upstream does not tell.
//! - Token counts are the upstream's; 0 if it sends none. Durations are at least 1 ns; without the
//!   upstream's own times, a response in one piece has no prompt time of its own.
//! - Lines of a stream that arrived together have the same `created_at`.

pub mod answer_extras;
mod answered_tool;
pub mod anthropic;
mod cache_marks;
pub mod chat;
pub mod collected_completion;
pub mod context_codec;
pub mod custom_calls;
pub mod embed;
pub mod format;
pub mod generate;
pub mod history;
pub mod infill;
pub mod lenient_json;
pub mod logprobs;
mod lone_tag;
pub mod media;
pub mod options;
pub mod pairs;
pub mod pass_through;
pub(crate) mod quirks;
pub mod response_metrics;
pub mod responses;
pub mod responses_upstream;
mod results;
mod schema;
pub mod skipped;
pub mod stop_filter;
pub mod stream;
pub mod template;
pub mod think;
pub mod think_tags;
pub mod tool_calls;
pub mod tool_names;
pub mod tools;
pub mod truncate;
