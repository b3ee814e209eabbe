//! Translates a request for `chat/completions` to one for `responses`, and its response back, for models
//! that have no other route.
//!
//! The opposite of [`super::responses`]. A request is read as JSON, whichever route it came from, after
//! all repairs; the response becomes chunks, or a completion, that all routes understand. Never decides
//! which route a model has. Invariant: messages, images, tools, calls, results and the format keep their
//! text.
//!
//! | chat completions | responses |
//! | --- | --- |
//! | system messages in front | `instructions` |
//! | other messages | `input`; calls and results are items of their own |
//! | `tools`, `tool_choice` | the flat form; a tool that does not say so is not strict |
//! | `response_format`, `verbosity` | `text` |
//! | `max_tokens`, `max_completion_tokens` | `max_output_tokens` |
//! | `reasoning_effort` | `reasoning.effort` |
//! | `logprobs` | `include` |
//! | `temperature`, `top_p`, `top_logprobs`, `parallel_tool_calls`, `user` and the like | the same |
//! | all else, such as `seed` and penalties | left out: the route has no such member |
//!
//! `store` is always false. `stop` is left out, too, and applied to the text of the response ([`stops`]; the
//! routes that are translated do so for any upstream).

pub mod chunks;
pub mod request;
pub mod stops;
