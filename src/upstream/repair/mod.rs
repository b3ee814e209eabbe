//! Repairs a request that an upstream rejected because of a parameter.
//!
//! `refusal` reads which members a rejection names, `plan` decides what may be done about them, `apply`
//! and `raw` change the request, and [`cache`] remembers what worked, so that the next request is not
//! rejected. Pure: the time is an argument. Never touches messages, tools or a requested format without
//! keeping what they say.
//! Invariant: a repaired request still asks for the same; a rejection that only a person can resolve
//! goes back to the client.
//!
//! # Repairs
//!
//! After 400 or 422, in the words of any server, the request is changed and sent again at once, at
//! most [`MAX_ROUNDS`] times:
//!
//! | rejected | change ([`Repair`]) |
//! | --- | --- |
//! | `max_tokens` or `max_completion_tokens` | the other name |
//! | a value of `reasoning_effort` | the nearest allowed one |
//! | `reasoning_effort` together with tools | reasoning off while there are tools |
//! | sampling and other optional parameters | removed, so that the model's default applies |
//! | `stop`, or more stop sequences than are allowed | removed; the proxy applies them to the response |
//! | a token limit above what the model or the window has room for | lowered, or else removed |
//! | `top_p` or `temperature` of 0 | the nearest accepted value |
//! | an assistant's message at the end | the server is told to continue it, without reasoning, or a user asks for it |
//! | role `system` | role `developer`, or text at the beginning of the first user message |
//! | a strict schema | `strict` removed |
//! | a JSON schema | the schema in the prompt, and any JSON object demanded |
//! | any JSON object (`json_object`) | a schema that allows any object |
//! | a demand for JSON without the word "JSON" | the word is added to a message |
//!
//! Never changed: the model, the tools, the texts and images of the conversation, and that a response
//! must be JSON; a token limit is never raised. If only such a change would help, the client gets the
//! upstream's error. Each repair is a warning in the log. What worked is remembered for each model
//! and operation for an hour, so that an upstream that was updated is tried as before.
//!
//! On `/v1` the same repairs apply, except that `stop` stays: nothing applies it to a response that
//! is passed through.

mod apply;
pub mod cache;
mod plan;
mod raw;
mod refusal;

pub use self::plan::{Repair, Repairable, omit_limit, plan_repairs};

/// The most repairs and resends of one request. Most upstreams name one member at a time.
pub const MAX_ROUNDS: usize = 4;
