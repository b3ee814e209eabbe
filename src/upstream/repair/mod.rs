//! Repairs a request that an upstream rejected.
//!
//! [`document`] is the request as the repairs see it, the same for all routes; `kinds` and the table
//! `rejections.txt` have the words of rejections, `refusal` the members that they name, `numbers` and `values` their numbers; `plan` decides what may be
//! done, `repairs` does it, [`plainest`] is tried where nothing else is known, and [`memory`] keeps what
//! worked, so that the next request is not rejected. Pure: the time is an argument.
//! Invariant: a repaired request still asks for the same; a rejection that only a person can resolve
//! goes back to the client.
//!
//! # What is repaired
//!
//! After 400 or 422, or a 500 or 404 about a template, a grammar or arguments that the history has, in the
//! words of any server, the request is changed and sent again at once:
//!
//! | rejected | change |
//! | --- | --- |
//! | `max_tokens` or `max_completion_tokens` | the other name |
//! | a token limit above what the model or the window has room for | lowered, or else removed |
//! | a token limit below the least that `responses` takes | raised |
//! | a value of `reasoning_effort` | the nearest allowed one |
//! | `reasoning_effort` together with tools | reasoning off while there are tools |
//! | sampling and other optional parameters, alone or together | removed; of two the temperature stays |
//! | members that OpenAI's API does not have | removed, all at once |
//! | a member of messages, parts, calls or tools, by its place | removed from all of them |
//! | `top_p` or `temperature` of 0 | the nearest accepted value |
//! | `stop`, or more stop sequences than are allowed | the proxy applies them to the response |
//! | role `system` | role `developer`, or text at the beginning of the first user message |
//! | a system message behind others | joined in front, or told by the user at its place |
//! | roles that do not alternate, no user, a user behind a result, an empty message | joined, added, left out |
//! | an assistant's message at the end | continued, without reasoning, or asked for by a user |
//! | ids of calls, names of functions | short and legal ones; the client sees its own names |
//! | arguments of calls that are no JSON object | mended, or kept in an object |
//! | calls without results and the reverse | paired |
//! | tools that take free text, where they are passed on | functions; the client sees calls of its own form |
//! | schemas | reduced to Ollama's keywords |
//! | missing reasoning or thought signatures | sent with their calls: the client's, else what was kept (`upstream/tool_call_extras`), else a stand-in |
//! | a strict schema, a JSON schema, any JSON object, a format with tools | the next weaker form |
//! | a schema whose root is no object | wrapped; the response is unwrapped |
//! | a demand for JSON without the word "JSON" | the word is added to a message |
//! | a whole response | asked for as a stream and collected, into one completion where it is passed on |
//! | the route: the model has only `responses` | the conversation goes there, and its answer comes back |
//! | a stream, on a route that is translated | asked for in one piece |
//! | marks of the prompt cache | removed |
//! | a prompt that exceeds the context (Ollama's routes) | the oldest turns go, unless `truncate` is false |
//!
//! A chat that is rejected for any other reason is sent once more in its plainest form. Each repair is made
//! once, there are at most four rounds, and when nothing helps the client gets the first rejection.
//! Each is a warning in the log and counted in the metrics. What worked is remembered for each model
//! and operation for an hour; what depends on a client's own schemas, for those schemas only.

mod calls;
mod context;
mod custom_tools;
mod describe;
pub mod document;
mod edges;
mod inner;
mod kinds;
pub mod memory;
mod numbers;
mod order;
pub mod plainest;
mod plan;
mod refusal;
mod repairs;
mod response_format;
mod schemas;
pub mod session;
#[cfg(test)]
mod tests;
mod turn;
mod values;

use self::document::{Document, RouteTraits};
use crate::backends::errors;
use crate::backends::errors::ErrorDetails;

pub use self::kinds::refuses_system;
pub use self::plan::Planned;
pub use self::repairs::{Repair, Scope};

/// What an error says of the arguments of calls; `None` if it speaks of something else. Many servers tell it
/// with the status of a failure of their own.
pub fn read_arguments_rejection(error: &[u8]) -> Option<ErrorDetails> {
    errors::parse_details(error).filter(kinds::blames_arguments)
}

/// True if a request has calls whose arguments are not the text of a JSON object.
pub fn has_malformed_arguments(request: &[u8]) -> bool {
    let route = RouteTraits { is_chat: true, ..RouteTraits::default() };
    let document = std::str::from_utf8(request).ok().and_then(|it| Document::parse(it, route));
    document.is_some_and(|mut document| Repair::MendArguments.apply(&mut document))
}
