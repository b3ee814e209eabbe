//! OpenAI's wire types: requests to upstreams and their responses; and, in [`responses`], requests and
//! responses of `/v1/responses` for upstreams that lack that route.
//!
//! Names are those of OpenAI's API reference. Requests hold only what the client asked for: an absent
//! member is not written, never `null`. Responses take every member as optional and skip one of an
//! unexpected type, because upstreams differ.

pub mod chunk;
pub mod chunk_template;
pub mod embeddings;
pub(crate) mod lenient;
pub mod members;
pub mod multipart;
pub mod other_routes;
pub mod pass_head;
pub mod raw_object;
pub mod request;
pub mod request_body;
pub mod responses;
pub mod responses_input;
pub mod sse_end;
pub mod usage_scan;
